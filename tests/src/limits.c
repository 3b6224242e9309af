/*
 * For CRIU on a machine whose root lacks CAP_SYS_RESOURCE: without it the kernel does not tell the limits of a
 * process of another user by prlimit(2). It tells them to everybody in /proc/PID/limits, and so this does. CRIU
 * calls syscall(2); this is loaded before the library that has it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static rlim64_t value(const char *word)
{
	return strcmp(word, "unlimited") ? strtoull(word, NULL, 10) : RLIM64_INFINITY;
}

static long read_limit(long pid, long resource, struct rlimit64 *limit)
{
	char line[128], soft[24], hard[24];
	FILE *file;

	snprintf(line, sizeof(line), "/proc/%ld/limits", pid);
	file = fopen(line, "re");
	if (!file)
		return -1;
	/* A line of titles, then one for each resource, by number. */
	for (long skip = -1; skip <= resource; skip++)
		if (!fgets(line, sizeof(line), file))
			line[0] = 0;
	fclose(file);
	if (strlen(line) < 26 || sscanf(line + 26, "%23s %23s", soft, hard) != 2) {
		errno = EPERM;
		return -1;
	}
	limit->rlim_cur = value(soft);
	limit->rlim_max = value(hard);
	return 0;
}

long syscall(long number, ...)
{
	long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	long a[6], result;
	va_list arguments;

	va_start(arguments, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (result == -1 && errno == EPERM && number == SYS_prlimit64 && !a[2] && a[3])
		return read_limit(a[0], a[1], (struct rlimit64 *)a[3]);
	return result;
}
