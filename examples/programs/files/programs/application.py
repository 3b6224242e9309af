"""Counts what it is asked, for each name by itself, and returns what it was sent, backwards."""

import collections
import os
import threading

import flask

application = flask.Flask(__name__)
counts = collections.Counter()
lock = threading.Lock()
gathered = threading.Barrier(8)


@application.post("/together")
def together():
    """Answers when eight ask at the same time: then each of them has a connection of its own."""
    gathered.wait(60)
    return ""


@application.post("/<name>")
def count(name):
    body = flask.request.get_data()
    with lock:
        counts[name] += 1
        n = counts[name]
    # The port shows on which connection the question came.
    return b"%d %d %s\n" % (n, os.getpid(), flask.request.environ["REMOTE_PORT"].encode()) + body[::-1]
