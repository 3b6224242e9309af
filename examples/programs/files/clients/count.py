"""Connections that are kept alive, each of which counts and has the digest of what it sends made."""

import hashlib
import http.client
import os
import random

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


def ready():
    connection = http.client.HTTPConnection(host, 8080, timeout=5)
    connection.request("POST", "/ready", b"")
    # What is in front of it may listen already.
    if connection.getresponse().status != 200:
        raise OSError("not ready")
    connection.close()


host = seen.argument(1)
seen.until_open(ready)
seen.run(*map(counter, range(8)))
