"""Connections that each count with a key of their own, and one that has snapshots and logs written."""

import socket
import time

import seen


def ask(stream, *words):
    stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
    stream.flush()
    return stream.readline().rstrip().decode()


def counter(number):
    def count(worker):
        stream = socket.create_connection((host, 6379)).makefile("rwb")
        me = ask(stream, b"client", b"id")
        n = 0
        while worker.goes_on():
            n += 1
            worker.answered(ask(stream, b"incr", b"counter%d" % number), f":{n}")
            worker.answered(ask(stream, b"set", b"key%d-%d" % (number, n), b"x" * 500), "+OK")
        worker.answered(ask(stream, b"client", b"id"), me)

    return count


def writer(worker):
    stream = socket.create_connection((host, 6379)).makefile("rwb")
    while worker.goes_on():
        for command in (b"bgsave", b"bgrewriteaof"):
            answer = ask(stream, command)
            # Only one at a time.
            busy = "in progress" in answer or "child process is active" in answer
            worker.answered(busy or answer[:11], busy or "+Background")
        time.sleep(0.05)


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 6379), 5).close())
seen.run(*map(counter, range(4)), writer)
