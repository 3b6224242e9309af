"""Connections that are kept alive to a server in front of an application, whose answers are large and counted."""

import http.client
import os
import random
import threading

import seen

CONNECTIONS = 8
# Of the server to the application.
behind = set()
opened = threading.Barrier(CONNECTIONS)


def asker(number):
    def ask(worker):
        connection = http.client.HTTPConnection(host, 8080)
        connection.connect()
        one = connection.sock

        def answer(path, body):
            connection.request("POST", path, body)
            response = connection.getresponse()
            return response.status, response.read()

        # The server in front opens as many connections as there are questions at a time. A new one would not find an
        # application that has moved.
        opened.wait(60)
        worker.answered(answer("/together", b""), (200, b""))
        process = None
        n = 0
        while worker.goes_on():
            n += 1
            body = os.urandom(random.randrange(100000))
            status, got = answer(f"/{number}", body)
            words, _, rest = got.partition(b"\n")
            count, who, port = words.split()
            process = process or who
            behind.add(port)
            worker.answered(
                (status, int(count), who, rest, connection.sock is one, len(behind) <= CONNECTIONS),
                (200, n, process, body[::-1], True, True),
            )

    return ask


def ready():
    connection = http.client.HTTPConnection(host, 8080, timeout=5)
    connection.request("POST", "/ready", b"")
    # What is in front of the application listens before it does.
    if connection.getresponse().status != 200:
        raise OSError("not ready")
    connection.close()


host = seen.argument(1)
seen.until_open(ready)
seen.run(*map(asker, range(CONNECTIONS)))
