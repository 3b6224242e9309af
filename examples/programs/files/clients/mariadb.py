"""Sessions of mariadb: rows in order, and large values that are written and read again."""

import hashlib
import socket

import seen


def session(host):
    mariadb = seen.Program(
        "mariadb", "--no-defaults", "--skip-reconnect", "--unbuffered", "--batch", "--skip-column-names",
        "--skip-ssl", "--host", host, "--user", "c", "d",
    )
    return mariadb, mariadb.ask("select connection_id();")


def rows(worker):
    mariadb, connection = session(host)
    n = 0
    while worker.goes_on():
        n += 1
        answer = mariadb.ask(f"insert into numbers values ({n}, md5({n})); select {n}, connection_id();")
        worker.answered(answer, f"{n}\t{connection}")
    answer = mariadb.ask("select count(*), max(n), sum(body = md5(n)) from numbers;")
    worker.answered(answer, f"{n}\t{n}\t{n}")
    mariadb.close()


def large(worker):
    mariadb, connection = session(host)
    n = 0
    while worker.goes_on():
        n += 1
        body = "repeat(md5(%d), 3000)" % n
        print(f"insert into large (body) values ({body});", file=mariadb.process.stdin)
        answer = mariadb.ask(
            f"select last_insert_id(), sha2(body, 256), connection_id() from large where n = last_insert_id();"
        )
        expected = hashlib.sha256(hashlib.md5(str(n).encode()).hexdigest().encode() * 3000).hexdigest()
        worker.answered(answer, f"{n}\t{expected}\t{connection}")
        if n > 20:
            print(f"update large set body = '' where n = {n} - 20;", file=mariadb.process.stdin)
    mariadb.close()


host = seen.argument(1)
seen.until_open(lambda: socket.create_connection((host, 3306), 5).close())
seen.run(rows, large)
