"""A connection that changes a key, and one that is told of each change."""

import base64
import http.client
import json
import socket
import threading

import seen

KEY = base64.b64encode(b"key").decode()
watched = threading.Event()


def request(path, body):
    connection = http.client.HTTPConnection(host, 2379)
    connection.connect()
    connection.request("POST", path, json.dumps(body))
    return connection


def put(worker):
    watched.wait()
    connection = http.client.HTTPConnection(host, 2379)
    connection.connect()
    one = connection.sock
    revision = None
    n = 0
    while worker.goes_on():
        n += 1
        value = base64.b64encode(str(n).encode()).decode()
        connection.request("POST", "/v3/kv/put", json.dumps({"key": KEY, "value": value}))
        header = json.load(connection.getresponse())["header"]
        revision = revision or int(header["revision"]) - 1
        worker.answered((int(header["revision"]), connection.sock is one), (revision + n, True))


def watch(worker):
    response = request("/v3/watch", {"create_request": {"key": KEY}}).getresponse()
    worker.answered(json.loads(response.readline())["result"].get("created"), True)
    watched.set()
    n = 0
    while worker.goes_on():
        for event in json.loads(response.readline())["result"]["events"]:
            n += 1
            worker.answered(base64.b64decode(event["kv"]["value"]).decode(), str(n))


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 2379), 5).close())
seen.run(put, watch)
