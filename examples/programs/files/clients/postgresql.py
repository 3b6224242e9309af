"""Sessions of psql: rows in order, parallel queries, a cursor in an open transaction."""

import glob
import subprocess

import seen

# Debian's own psql asks which cluster is meant.
BIN = glob.glob("/usr/lib/postgresql/*/bin")[0]


def session(host):
    psql = seen.Program(
        f"{BIN}/psql", "--no-psqlrc", "-qAt", "-h", host, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "postgres"
    )
    return psql, psql.ask("select pg_backend_pid();")


def ready(host):
    def ask():
        if subprocess.run([f"{BIN}/pg_isready", "-q", "-h", host]).returncode:
            raise OSError("not ready")

    seen.until_open(ask)


def rows(worker):
    psql, process = session(host)
    n = 0
    while worker.goes_on():
        n += 1
        answer = psql.ask(f"insert into rows values ({n}, md5('{n}')) returning n, pg_backend_pid();")
        worker.answered(answer, f"{n}|{process}")
    answer = psql.ask("select count(*), min(n), max(n), count(*) filter (where body = md5(n::text)) from rows;")
    worker.answered(answer, f"{n}|1|{n}|{n}")
    psql.close()


def parallel(worker):
    psql, process = session(host)
    plan = psql.ask(
        "explain (analyze, costs off, format json) select sum(n) from many"
        r" \g | tr -d '\n'; echo"
    )
    if '"Workers Launched": 0' in plan or '"Workers Launched"' not in plan:
        raise ValueError(f"not in parallel: {plan}")
    while worker.goes_on():
        answer = psql.ask("select sum(n), count(distinct body), pg_backend_pid() from many;")
        worker.answered(answer, f"5000050000|100000|{process}")
    psql.close()


def cursor(worker):
    psql, process = session(host)
    print("begin; create temp table mine (n int);", file=psql.process.stdin)
    print("declare c cursor for select n, pg_backend_pid() from generate_series(1, 1000000) n;", file=psql.process.stdin)
    n = 0
    while worker.goes_on():
        n += 1
        worker.answered(psql.ask("fetch c;"), f"{n}|{process}")
        print(f"insert into mine values ({n});", file=psql.process.stdin)
    worker.answered(psql.ask("select count(*) from mine;"), f"{n}")
    psql.close()


host = seen.argument(1)
ready(host)
seen.run(rows, parallel, cursor)
