"""A thousand subscribers and one who publishes: each gets every message, once and in order."""

import selectors
import socket
import struct
import threading
import time

import seen

SUBSCRIBERS = 1000
subscribed = threading.Event()


def packet(kind, body):
    return bytes([kind, len(body)]) + body


def text(word):
    return struct.pack("!H", len(word)) + word


def connect(name):
    connection = socket.create_connection((host, 1883))
    connection.sendall(packet(0x10, text(b"MQTT") + b"\x04\x02\0\0" + text(name)))
    if connection.recv(4, socket.MSG_WAITALL) != b"\x20\x02\0\0":
        raise ValueError("not accepted")
    return connection


def subscribers(worker):
    selector = selectors.DefaultSelector()
    last, rest = {}, {}
    for number in range(SUBSCRIBERS):
        connection = connect(b"subscriber%d" % number)
        connection.sendall(packet(0x82, b"\0\1" + text(b"news") + b"\0"))
        if connection.recv(5, socket.MSG_WAITALL) != b"\x90\x03\0\1\0":
            raise ValueError("not subscribed")
        selector.register(connection, selectors.EVENT_READ)
        last[connection], rest[connection] = 0, b""
    subscribed.set()
    while worker.goes_on():
        for key, _ in selector.select(0.2):
            one = key.fileobj
            got = one.recv(65536)
            if not got:
                raise EOFError("a subscriber was disconnected")
            got = rest[one] + got
            while len(got) > 1 and len(got) >= 2 + got[1]:
                last[one] += 1
                if got[: 2 + got[1]] != message(last[one]):
                    raise ValueError(f"{got[:20]} instead of message {last[one]}")
                got = got[2 + got[1] :]
            rest[one] = got
        # Those that lag behind count.
        while worker.answers < min(last.values()):
            worker.answered(True, True)


def message(number):
    return packet(0x30, text(b"news") + b"%d" % number)


def publisher(worker):
    subscribed.wait()
    connection = connect(b"publisher")
    n = 0
    while worker.goes_on():
        n += 1
        connection.sendall(message(n))
        # Asks whether it is still there, and so waits for all that was sent.
        connection.sendall(b"\xc0\0")
        worker.answered(connection.recv(2, socket.MSG_WAITALL), b"\xd0\0")
        time.sleep(0.1)


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 1883), 5).close())
seen.run(subscribers, publisher)
