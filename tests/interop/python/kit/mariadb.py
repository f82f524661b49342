"""MariaDB: a server of the tests' own in a temporary directory, which can be stopped, killed and frozen."""

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import pymysql

from .deadline import DEADLINE, Late, until
from .postgres import PASSWORD, free_port, unprivileged
from .still import freeze, thaw


class MariaDb:
    """A running server with a unix socket and a port of loopback."""

    def __init__(self):
        self._owner = unprivileged()
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-mariadb-"))
        self._process = None
        self._databases = 0
        self.port = free_port()
        try:
            if self._owner:
                shutil.chown(self.directory, self._owner["user"], self._owner["group"])
            self._run(_program("mariadb-install-db"), "--auth-root-authentication-method=normal", "--skip-test-db")
            self.start()
            self.execute("CREATE USER owner@'127.0.0.1' IDENTIFIED BY %s", [PASSWORD])
            self.execute("GRANT ALL ON *.* TO owner@'127.0.0.1'")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def unix_socket(self):
        return self.directory / "socket"

    def start(self):
        """Starts it and waits until it answers."""
        assert self._process is None, "expected a server that is stopped, found it running"
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    _program("mariadbd"),
                    "--no-defaults",
                    f"--datadir={self.directory}/data",
                    f"--socket={self.unix_socket}",
                    "--bind-address=127.0.0.1",
                    f"--port={self.port}",
                    f"--pid-file={self.directory}/pid",
                    "--skip-name-resolve",
                    "--innodb-buffer-pool-size=16M",
                    "--innodb-flush-log-at-trx-commit=0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._owner,
            )
        until(self._answers, lambda: f"MariaDB to answer\n{self.log()}", 2 * DEADLINE)

    def stop(self):
        """Ends it as an administrator does: its clients are thrown out."""
        self._end(signal.SIGTERM)

    def kill(self):
        """Ends it without a word to anybody."""
        self._end(signal.SIGKILL)

    def freeze(self):
        """Pauses it: the kernel accepts connections, and nothing is sent on them."""
        freeze(self._process.pid)

    def thaw(self):
        thaw(self._process.pid)

    def close(self):
        """Leaves nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def create_database(self):
        """Makes an empty database of a name that was not used before; returns the name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        return name

    def create_reader(self, database, *tables):
        """Makes a user who may read these tables and nothing else, and returns the name."""
        name = f"reader_{database}"
        for host in ("127.0.0.1", "localhost"):
            self.execute(f"CREATE USER {name}@'{host}' IDENTIFIED BY %s", [PASSWORD])
            for table in tables:
                self.execute(f"GRANT SELECT ON {database}.{table} TO {name}@'{host}'")
        return name

    def url(self, database, *, role="owner", by_socket=False):
        """Returns the URL that Oneport is given."""
        place = "localhost" if by_socket else f"127.0.0.1:{self.port}"
        query = f"?socket={quote(str(self.unix_socket), safe='')}" if by_socket else ""
        return f"django+mysql://{role}:{quote(PASSWORD, safe='')}@{place}/{database}{query}"

    def parameters(self, database):
        """Returns the keys of Django's DATABASES."""
        return {
            "ENGINE": "django.db.backends.mysql",
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "USER": "owner",
            "PASSWORD": PASSWORD,
            "NAME": database,
            "OPTIONS": {"charset": "utf8mb4"},
        }

    def execute(self, query, values=None, *, database=None):
        """Runs one statement as the administrator; returns its rows."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())

    def connect(self, database=None):
        return pymysql.connect(
            unix_socket=str(self.unix_socket), user="root", database=database, autocommit=True, read_timeout=DEADLINE, connect_timeout=DEADLINE
        )

    def rows(self, database, table):
        """Returns all rows of a table in order."""
        return sorted(self.execute(f"SELECT * FROM `{table}`", database=database), key=repr)

    def log(self):
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _run(self, program, *arguments):
        done = subprocess.run(
            [program, "--no-defaults", f"--datadir={self.directory}/data", *arguments],
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
            cwd=self.directory,
            **self._owner,
        )
        if done.returncode != 0:
            raise AssertionError(f"expected a new MariaDB, found {done.stdout}{done.stderr}")

    def _answers(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected MariaDB to start, found exit code {self._process.returncode}\n{self.log()}")
        try:
            return self.execute("SELECT 1")
        except pymysql.err.OperationalError:
            return None

    def _end(self, number):
        self._process.send_signal(number)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Late(f"expected MariaDB to end within {DEADLINE} s\n{self.log()}") from None
        self._process = None


def _program(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise AssertionError(f"expected {name}, found none: install Debian's package mariadb-server")
    return found
