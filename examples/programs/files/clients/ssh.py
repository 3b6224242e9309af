"""Sessions of ssh: a terminal whose shell is asked line by line, and one that sends a large file again and again."""

import hashlib
import socket

import seen

LARGE = hashlib.sha256(hashlib.shake_128(b"large").digest(16 << 20)).hexdigest()
SSH = (
    "ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
    "-p", "2222", "-l", "guest",
)


def terminal(worker):
    ssh = seen.Program(*SSH, "-tt", host, "stty -echo; echo; while read line; do echo $line $$ $(tty); done")
    ssh.line()
    shell = ssh.ask("first").split(" ", 1)[1]
    n = 0
    while worker.goes_on():
        n += 1
        worker.answered(ssh.ask(str(n)), f"{n} {shell}")


def large(worker):
    ssh = seen.Program(*SSH, host, "while cat /srv/large; do :; done")
    while worker.goes_on():
        digest, left = hashlib.sha256(), 16 << 20
        while left:
            piece = ssh.process.stdout.buffer.read(min(left, 1 << 16))
            if not piece:
                raise EOFError(f"ssh has ended: {ssh.process.wait()}")
            digest.update(piece)
            worker.heard()
            left -= len(piece)
        worker.answered(digest.hexdigest(), LARGE)


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 2222), 5).close())
seen.run(terminal, large)
