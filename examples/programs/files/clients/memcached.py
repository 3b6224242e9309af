"""A connection that counts, and sockets that ask for its key with datagrams, of which some may be lost."""

import itertools
import socket
import struct

import seen

lost = itertools.count()
HEADER = struct.Struct("!HHHH")


def count(worker):
    stream = socket.create_connection((host, 11211)).makefile("rwb")

    def ask(line):
        stream.write(line + b"\r\n")
        stream.flush()
        return stream.readline().rstrip().decode()

    worker.answered(ask(b"set n 0 0 1\r\n0"), "STORED")
    n = 0
    while worker.goes_on():
        n += 1
        worker.answered(ask(b"incr n 1"), str(n))


def asker(number):
    def ask(worker):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asking.connect((host, 11211))
        asking.settimeout(1)
        key, value = f"key{number}".encode(), b"%d" % number * 1000
        question = 0

        def exchange(command):
            nonlocal question
            while worker.goes_on():
                question = (question + 1) % 65536
                asking.send(HEADER.pack(question, 0, 1, 0) + command + b"\r\n")
                try:
                    while True:
                        answer = asking.recv(2000)
                        # A late answer to an earlier question.
                        if HEADER.unpack(answer[:8])[0] == question:
                            return answer[8:]
                except TimeoutError:
                    next(lost)

        while worker.goes_on():
            command = b"set %s 0 0 %d\r\n%s" % (key, len(value), value)
            expected = b"STORED\r\n"
            for command, expected in (
                (command, expected),
                (b"get " + key, b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (key, len(value), value)),
            ):
                answer = exchange(command)
                if answer is not None:
                    worker.answered(answer, expected)

    return ask


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 11211), 5).close())
seen.run(count, *map(asker, range(1, 5)))
