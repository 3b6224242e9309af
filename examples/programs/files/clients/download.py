"""Connections over TLS that are kept alive and fetch a large file again and again."""

import hashlib
import http.client
import socket
import ssl

import seen

LARGE = hashlib.sha256(hashlib.shake_128(b"large").digest(16 << 20)).hexdigest()


def fetch(worker):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, 8443, context=context)
    connection.connect()
    one = connection.sock
    while worker.goes_on():
        connection.request("GET", "/file")
        response = connection.getresponse()
        digest = hashlib.sha256()
        while piece := response.read(1 << 16):
            digest.update(piece)
            worker.heard()
        worker.answered((digest.hexdigest(), connection.sock is one), (LARGE, True))


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 8443), 5).close())
seen.run(*[fetch] * 4)
