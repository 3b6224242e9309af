"""What the clients have in common.

A client has workers, each with one connection that it opens once. It prints `answers N` whenever the worker
with the fewest answers has got more, and one object at the end, which SIGINT or SIGTERM brings. The first thing that
is wrong ends it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

LOOK_S = 0.05


class Worker:
    """Counts answers, and the longest time in which nothing came."""

    def __init__(self, enough):
        self.enough = enough
        self.answers = 0
        self.stall_s = 0.0
        self.last = None

    def goes_on(self):
        return not self.enough.is_set()

    def answered(self, answer, expected):
        """One more answer, which must be this one."""
        if answer != expected:
            raise ValueError(f"{str(answer)[:200]!r} instead of {str(expected)[:200]!r}")
        self.heard()
        self.answers += 1

    def heard(self):
        """A part of an answer has come."""
        now = time.monotonic()
        if self.last is not None:
            self.stall_s = max(self.stall_s, now - self.last)
        self.last = now


class Program:
    """A client program that is asked line by line."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            # Ctrl-C is for this one.
            start_new_session=True,
        )

    def ask(self, question):
        print(question, file=self.process.stdin, flush=True)
        return self.line()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"{self.process.args[0]} has ended: {self.process.wait()}")
        return line.rstrip("\r\n")

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def run(*functions):
    """Runs these until the end, each with a worker of its own."""
    enough = threading.Event()
    errors = []
    workers = [Worker(enough) for _ in functions]

    def work(function, worker):
        try:
            function(worker)
        except BaseException as error:
            errors.append(f"{getattr(function, 'name', function.__name__)}: {type(error).__name__}: {error}")
            enough.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: enough.set())
    threads = [
        threading.Thread(target=work, args=pair, daemon=True) for pair in zip(functions, workers)
    ]
    for thread in threads:
        thread.start()
    told = -1
    while not enough.wait(LOOK_S):
        answers = min(worker.answers for worker in workers)
        if answers > told:
            told = answers
            print("answers", told, flush=True)
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
        if thread.is_alive() and not errors:
            errors.append("a worker does not end: it waits for an answer")
    seen = {
        "ok": not errors,
        "error": errors[0] if errors else None,
        "answers": sum(worker.answers for worker in workers),
        "connections": len(workers),
        "stall_ms": round(max(worker.stall_s for worker in workers) * 1000),
    }
    print(json.dumps(seen), flush=True)
    # A thread that waits for ever must not keep the process.
    os._exit(0 if not errors else 1)


def until_open(connect, limit_s=600):
    """The result of the first attempt that is not refused: a container exists before its program listens. A database
    is made first, which takes minutes on a busy machine; whoever started this one ends it sooner."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return connect()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def argument(number):
    return sys.argv[number]
