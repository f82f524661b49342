"""PostgreSQL: a cluster of the tests' own in a temporary directory, which can be stopped, killed and frozen."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from .deadline import DEADLINE, Late, until
from .still import freeze, thaw

# Debian's directory of each version's programs, which are not in PATH.
_VERSIONS = Path("/usr/lib/postgresql")

# Every character that a URL has to escape is one that a password may have.
PASSWORD = "p@ss/w:rd %?#"

_SETTINGS = {
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "80",
    "autovacuum": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "%m %u ",
}


def free_port():
    """Returns a port of loopback below those that the kernel gives to clients, so that it stays free while its server is down."""
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("expected a free port between 20000 and 32000, found none")


def program(name):
    """Returns the path of PostgreSQL's program: that of `POSTGRES_BIN`, of PATH, or of Debian's newest version."""
    places = [os.environ["POSTGRES_BIN"]] if "POSTGRES_BIN" in os.environ else []
    if _VERSIONS.is_dir():
        versions = sorted((path for path in _VERSIONS.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        places += [str(path / "bin") for path in reversed(versions)]
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    if found is None:
        raise AssertionError(f"expected PostgreSQL's {name}, found none: install Debian's package postgresql")
    return found


class Postgres:
    """A running cluster; with `started=False` one that is made and not started yet."""

    def __init__(self, *, started=True):
        self._owner = unprivileged()
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-postgres-"))
        self._process = None
        self._frozen = []
        self._databases = 0
        self.port = free_port()
        try:
            self._init()
            if started:
                self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Starts it at its port and waits until it answers."""
        assert self._process is None, "expected a cluster that is stopped, found it running"
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", self.directory / "data", "-h", "127.0.0.1", "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._owner,
            )
        until(self._answers, lambda: f"PostgreSQL to answer\n{self.log()}")

    def stop(self):
        """Ends it as an administrator does: its clients are thrown out (a fast shutdown)."""
        self._end(signal.SIGINT)

    def kill(self):
        """Ends it without a word to anybody, as a crash does (an immediate shutdown; the next start recovers)."""
        self._end(signal.SIGQUIT)

    def freeze(self):
        """Pauses all its processes: the kernel accepts connections, and nothing is sent on them."""
        freeze(self._process.pid)  # first, so that it starts no further process
        self._frozen = [self._process.pid, *_children(self._process.pid)]
        freeze(*self._frozen[1:])

    def thaw(self):
        """Lets all its processes run again."""
        thaw(*reversed(self._frozen))
        self._frozen = []

    def close(self):
        """Leaves nothing behind."""
        self.thaw()
        if self._process is not None:
            try:
                self.kill()
            except Late:
                self._process.kill()
                self._process.wait()
                self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def create_database(self):
        """Makes an empty database of a name that was not used before; returns the name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        return name

    def create_role(self, role):
        """Makes a role that may log in."""
        self.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")

    def create_reader(self, database, *tables):
        """Makes a role that may read these tables and nothing else, and returns its name."""
        role = f"reader_{database}"
        self.create_role(role)
        self.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        for table in tables:
            self.execute(f'GRANT SELECT ON "{table}" TO {role}', database=database)
        return role

    def url(self, database, *, role="owner", scheme="postgres"):
        """Returns the URL that Oneport is given."""
        return f"{scheme}://{role}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def parameters(self, database):
        """Returns the keys of Django's DATABASES."""
        return {"HOST": "127.0.0.1", "PORT": self.port, "USER": "owner", "PASSWORD": PASSWORD, "NAME": database}

    def connect(self, database="postgres"):
        """Connects as the owner of all."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="owner",
            password=PASSWORD,
            dbname=database,
            connect_timeout=int(DEADLINE),
            options="-c statement_timeout=20000",
            autocommit=True,
        )

    def execute(self, query, values=None, *, database="postgres"):
        """Runs one statement; returns its rows, or none when it gives none."""
        with self.connect(database) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else None

    def rows(self, database, table):
        """Returns all rows of a table in order."""
        return sorted(self.execute(f'SELECT * FROM "{table}"', database=database), key=repr)

    def writes(self, database):
        """Returns how many rows were ever written in the tables of a database, by table.

        A connection's part is known for certain when it has ended, so this waits for the owner's to end.
        """
        until(lambda: self.connections(database) == 0, f"the end of all connections to {database}")
        query = "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables ORDER BY relname"
        return {row[0]: row[1:] for row in self.execute(query, database=database)}

    def connections(self, database, role="owner"):
        """Returns how many connections a role has to a database."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = %s"
        return self.execute(query, [database, role])[0][0]

    def throw_out(self, database):
        """Ends the connections of all clients of a database, as an administrator can."""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])

    def log(self):
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _init(self):
        secret = self.directory / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        if self._owner:
            for path in (self.directory, secret):
                shutil.chown(path, self._owner["user"], self._owner["group"])
        done = subprocess.run(
            [
                program("initdb"),
                "--pgdata", self.directory / "data",
                "--username", "owner",
                "--pwfile", secret,
                "--auth", "scram-sha-256",
                "--encoding", "UTF8",
                "--locale", "C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
            cwd=self.directory,
            **self._owner,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"expected initdb to make a cluster, found {done.stdout}{done.stderr}")

    def _answers(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected PostgreSQL to start, found exit code {self._process.returncode}\n{self.log()}")
        try:
            return self.execute("SELECT 1")
        except psycopg.OperationalError:
            return None

    def _end(self, number):
        self._process.send_signal(number)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Late(f"expected PostgreSQL to end within {DEADLINE} s\n{self.log()}") from None
        self._process = None


def unprivileged():
    """PostgreSQL refuses to run as root; in that case it runs as Debian's `postgres`, or as `nobody`."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("expected a user postgres or nobody for PostgreSQL to run as, found none")


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
