"""Connections that are kept alive, each of which counts and has the digest of what it sends made."""

import hashlib
import http.client
import os
import random
import socket

import seen


def counter(number):
    def count(worker):
        connection = http.client.HTTPConnection(host, 8080)
        connection.connect()
        one = connection.sock
        process = None
        n = 0
        while worker.goes_on():
            n += 1
            body = os.urandom(random.randrange(20000))
            connection.request("POST", f"/{number}", body)
            answer = connection.getresponse().read().decode()
            process = process or answer.split()[-1]
            expected = f"{n} {hashlib.sha256(body).hexdigest()} {process}\n"
            worker.answered((answer, connection.sock is one), (expected, True))

    return count


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 8080), 5).close())
seen.run(*map(counter, range(8)))
