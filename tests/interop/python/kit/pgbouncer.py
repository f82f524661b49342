"""PgBouncer: one of the tests' own before a PostgreSQL, in transaction mode, which can be stopped and started again."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from .deadline import DEADLINE, Late, until
from .postgres import PASSWORD, free_port, unprivileged

_CONFIG = """
[databases]
* = host=127.0.0.1 port={postgres}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 200
query_wait_timeout = 10
server_login_retry = 1
"""


class PgBouncer:
    """A running pooler, which lends `pool` connections of a PostgreSQL for one transaction at a time."""

    def __init__(self, postgres, *, pool=2, roles=("owner",)):
        self._owner = unprivileged()
        self._process = None
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-pgbouncer-"))
        self.port = free_port()
        users = self.directory / "users"
        users.write_text("".join(f'"{role}" "{PASSWORD}"\n' for role in roles), encoding="utf-8")
        config = self.directory / "pgbouncer.ini"
        config.write_text(_CONFIG.format(postgres=postgres.port, port=self.port, users=users, pool=pool), encoding="utf-8")
        if self._owner:
            for path in (self.directory, users, config):
                shutil.chown(path, self._owner["user"], self._owner["group"])

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Starts it at its port and waits until it listens."""
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [_program(), str(self.directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._owner,
            )
        until(self._answers, lambda: f"PgBouncer to answer\n{self.log()}")

    def stop(self):
        """Ends it at once: its clients are thrown out."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise Late(f"expected PgBouncer to end within {DEADLINE} s\n{self.log()}") from None
        finally:
            self._process = None

    def close(self):
        """Leaves nothing behind."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database, *, role="owner", scheme="postgres"):
        """Returns the URL that Oneport is given."""
        return f"{scheme}://{role}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def connect(self, database, role="owner"):
        """Connects a client, which prepares nothing by itself."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=role,
            password=PASSWORD,
            dbname=database,
            connect_timeout=int(DEADLINE),
            prepare_threshold=None,
            autocommit=True,
        )

    def log(self):
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _answers(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected PgBouncer to start, found exit code {self._process.returncode}\n{self.log()}")
        try:
            with self.connect("postgres") as connection:
                return connection.execute("SELECT 1").fetchone()
        except psycopg.OperationalError:
            return None


def _program():
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise AssertionError("expected pgbouncer, found none: install Debian's package pgbouncer")
    return found
