"""Counts what it is asked, for each name by itself, and returns a digest of what it was sent."""

import collections
import hashlib
import os
import threading

import flask

application = flask.Flask(__name__)
counts = collections.Counter()
lock = threading.Lock()


@application.post("/<name>")
def count(name):
    digest = hashlib.sha256(flask.request.get_data()).hexdigest()
    with lock:
        counts[name] += 1
        return f"{counts[name]} {digest} {os.getpid()}\n"
