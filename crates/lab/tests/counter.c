/* Answers each connection to port 80 with a number that goes up: enough of a service to see that it
 * runs, is reachable, and still has its memory. */
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(80)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 16))
        return 1;
    for (int n = 1;; n++) {
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            return 1;
        dprintf(client, "%d\n", n);
        close(client);
    }
}
