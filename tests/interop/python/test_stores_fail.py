"""Stores that fail: one that cannot be opened fails the start, a full one is logged once, and a denied command is not repeated at once."""

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from kit.deadline import DEADLINE, until
from kit.postgres import unprivileged
from kit.redis_server import Redis
from kit.server import Server, binary
from kit.visitor import Visitor, add_user
from test_database_away import CONFIG, KEY, LOGIN, PAGES

OPENED = """
[server]
secret_key = "0123456789-abcdefghijklmnopqrstuvwxyz-0123456789-abcdefg"
bind = ["127.0.0.1:0"]

[session]
store = {store}
timeout = "500ms"

[auth]
users = {users}

[[http.route]]
path = "/"
view = "respond"
middleware = ["session", "auth"]
"""

INTERVAL = 10.0


def directory(place):
    (place / "store.db").mkdir()


def other_file(place):
    (place / "store.db").write_text("this is no database, whatever its name says")


def damaged(place):
    (place / "store.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)


def parent_is_a_file(place):
    (place / "store.db").write_text("x")
    return "store.db/store.db"


def missing_directory(_):
    return "none/store.db"


def no_right(place):
    with closing(sqlite3.connect(place / "store.db")) as database:
        database.execute("CREATE TABLE django_migrations (id)")
        database.commit()
    os.chown(place / "store.db", 0, 0)
    (place / "store.db").chmod(0o600)


def own_no_right(place):
    sqlite3.connect(place / "store.db").close()
    (place / "store.db").touch()
    os.chown(place / "store.db", 0, 0)
    (place / "store.db").chmod(0o600)


def read_only_directory(place):
    (place / "shut").mkdir()
    (place / "shut").chmod(0o555)
    return "shut/store.db"


def others_table(place):
    with closing(sqlite3.connect(place / "store.db")) as database:
        database.execute("CREATE TABLE oneport_session (something)")
        database.commit()


@contextmanager
def small_disk(place, size="256k"):
    """A file system of its own; fails where none may be mounted."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)


def fill(place):
    """Leaves not a byte."""
    with open(place / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1024))
        except OSError:
            pass


def can_mount():
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as place:
        try:
            with small_disk(Path(place) / "disk"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


class Start(unittest.TestCase):
    """The start ends with one line on standard error, which names the key and the path."""

    def started(self, place, store, users, code, user=None):
        (place / "oneport.toml").write_text(OPENED.format(store=json.dumps(store), users=json.dumps(users)))
        done = subprocess.run(
            [binary(), "serve", "--config", place / "oneport.toml"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            cwd=place,
            **(user or {}),
        )
        self.assertEqual(done.returncode, code, done.stderr)
        return [line for line in done.stderr.splitlines() if line]

    def test_a_database_that_cannot_be_opened_ends_the_start_with_one_sentence(self):
        nobody = unprivileged() if os.geteuid() == 0 else None
        cases = {
            # The existing file, whether it is a Django project's, the exit code, and the message.
            "a directory": (directory, "sqlite", 1, "store.db is a directory"),
            "a directory of Django": (directory, "django+sqlite", 78, "found a directory at"),
            "another file": (other_file, "sqlite", 78, "expected a SQLite database, found another file"),
            "another file of Django": (other_file, "django+sqlite", 78, "expected a SQLite database, found another file"),
            "damaged": (damaged, "sqlite", 1, "store.db: file is not a database"),
            "damaged of Django": (damaged, "django+sqlite", 1, "store.db: file is not a database"),
            "in a file": (parent_is_a_file, "sqlite", 1, "there is no directory"),
            "no directory": (missing_directory, "sqlite", 78, "expected a directory for the database, found none at"),
            "none of Django": (missing_directory, "django+sqlite", 78, "expected the Django project's database, found no file"),
            "another table": (others_table, "sqlite", 1, "store.db: table oneport_session already exists"),
        }
        if nobody:
            cases |= {
                "no right": (own_no_right, "sqlite", 1, "cannot write .*store.db as user"),
                "no right of Django": (no_right, "django+sqlite", 1, "cannot read .*store.db as user"),
                "a directory that is read only": (read_only_directory, "sqlite", 1, "cannot write in .*/shut/ as user"),
            }
        for what, (make, scheme, code, expected) in cases.items():
            with tempfile.TemporaryDirectory(prefix="oneport-stores-") as place:
                place = Path(place)
                place.chmod(0o755)
                path = place / (make(place) or "store.db")
                is_of_user = "right" in what or "read only" in what
                for key in ("session.store", "auth.users"):
                    # A Django project's sessions want the project's users.
                    if key == "auth.users" and scheme == "sqlite":
                        store, users = "memory", f"sqlite:{path}"
                    elif key == "auth.users":
                        store, users = "memory", f"django+sqlite:{path}"
                    elif scheme == "sqlite":
                        store, users = f"sqlite:{path}", "sqlite::memory:"
                    else:
                        store, users = f"django+sqlite:{path}", f"django+sqlite:{path}"
                    with self.subTest(what, key=key):
                        said = self.started(place, store, users, code, nobody if is_of_user else None)
                        about = [line for line in said if key in line]
                        self.assertEqual(len(about), 1, said)
                        self.assertRegex(about[0], expected)
                        self.assertIn(str(place), about[0])
                        if code == 1:
                            self.assertEqual(said, about)

    def test_a_database_that_is_locked_ends_the_start_with_one_sentence(self):
        with tempfile.TemporaryDirectory(prefix="oneport-stores-") as place:
            path = Path(place) / "store.db"
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                said = self.started(Path(place), f"sqlite:{path}", f"sqlite:{path}", 1)
            self.assertEqual(len(said), 1, said)
            self.assertRegex(said[0], "session.store: .*store.db: .*locked")

    @unittest.skipUnless(can_mount(), "needs the right to mount")
    def test_a_disk_that_is_full_ends_the_start_with_one_sentence(self):
        for key in ("session.store", "auth.users"):
            with self.subTest(key), tempfile.TemporaryDirectory(prefix="oneport-stores-") as place:
                with small_disk(Path(place) / "disk") as disk:
                    fill(disk)
                    store = f"sqlite:{disk}/store.db"
                    said = self.started(Path(place), *((store, store) if key == "session.store" else ("memory", store)), 1)
                self.assertEqual(len(said), 1, said)
                self.assertRegex(said[0], f"{key}: .*{disk}.*No space left")


class Full(unittest.TestCase):
    """A database that can be read and not written."""

    def server(self, place, **options):
        url = json.dumps(f"sqlite:{place}/store.db")
        return Server(CONFIG.format(key=KEY, store=url, users=url, login=LOGIN), files=PAGES, **options)

    def holds(self, server, fills, frees):
        add_user(server, "anna")
        known = Visitor(server).log_in()
        before = server.metric("oneport_store_errors_total", store="session")
        fills()
        logged = len(server.log())
        began = time.monotonic()
        visitors = [Visitor(server) for _ in range(8)]
        refused = 0
        for visitor in visitors * 3:
            refused += visitor.try_to_log_in().status == 503
            # Requests that only read continue, and do not end the outage.
            status, _, body = server.request("/page/", headers=known.headers)
            self.assertEqual((status, body), (200, b"anna"))
        self.assertEqual(refused, 24)
        seconds = time.monotonic() - began
        said = [line for line in server.log()[logged:].splitlines() if re.search(r"(WARN|ERROR|again)", line)]
        self.assertGreaterEqual(len(said), 1)
        self.assertLessEqual(len(said), 1 + int(seconds / INTERVAL), "\n".join(said))
        self.assertRegex(said[0], r"session store cannot be written: (database or disk is full|disk I/O error)")
        self.assertGreaterEqual(server.metric("oneport_store_errors_total", store="session") - before, 24)
        frees()
        Visitor(server).log_in()
        server.wait_for_log("store can be written again")
        self.assertEqual(server.log().count("again"), 1, server.log())

    @unittest.skipUnless(can_mount(), "needs the right to mount")
    def test_a_disk_that_is_full_is_said_once_and_only_a_write_ends_it(self):
        place = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-stores-"))) / "disk"
        self.enterContext(small_disk(place, "1m"))
        with self.server(place) as server:
            self.holds(server, lambda: fill(place), (place / "filler").unlink)

    def test_a_file_that_may_not_grow_is_said_once_and_only_a_write_ends_it(self):
        def start(*arguments, **options):
            # As with a full disk the write fails, instead of a signal that ends the process.
            return subprocess.Popen(*arguments, preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN), **options)

        place = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-stores-")))
        with self.server(place, start=start) as server:
            before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)

            def fills():
                # The log of the server is shorter than the database's.
                size = (place / "store.db-wal").stat().st_size
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, before[1]))

            self.holds(server, fills, lambda: resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before))


class RedisRefuses(unittest.TestCase):
    """A Redis that refuses to read Django's sessions."""

    def test_a_user_without_the_rights_is_named_once_and_redis_is_not_stormed(self):
        redis = self.enterContext(Redis())
        client = self.enterContext(redis.client())
        database = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-stores-"))) / "users.db"
        with closing(sqlite3.connect(database)) as users:
            users.execute("CREATE TABLE auth_user (id INTEGER, username, password, is_active, is_staff)")
            users.commit()
        cases = {
            # The rights, the password of the URL, and the message.
            "no keys": ("on >pw ~other:* +@all", "pw", r"MGET on :1:django.contrib.sessions.cache\*: NoPerm"),
            "no MGET": ("on >pw ~* +@all -mget", "pw", r"MGET on :1:django.contrib.sessions.cache\*: NoPerm.*'mget'"),
            "no SELECT": ("on >pw ~* +@all -select", "pw", r"(?i)select|NoPerm"),
            "another password": ("on >pw ~* +@all", "other", r"(?i)password|WRONGPASS|auth"),
            "off": ("off >pw ~* +@all", "pw", r"(?i)password|WRONGPASS|auth"),
        }
        for what, (rule, password, expected) in cases.items():
            with self.subTest(what):
                client.execute_command("ACL", "SETUSER", "app", "reset", *rule.split())
                store = json.dumps(f"django+redis://app:{password}@127.0.0.1:{redis.port}/1")
                config = CONFIG.format(key=KEY, store=store, users=json.dumps(f"django+sqlite:{database}"), login="")
                with Server(config, files=PAGES) as server, ThreadPoolExecutor(8) as pool:
                    before = client.info("stats")["total_connections_received"]
                    began = time.monotonic()
                    ask = lambda _: server.request("/page/", headers={"Cookie": "sessionid=" + "a" * 32})[0]  # noqa: E731
                    while time.monotonic() - began < 2.0:
                        self.assertEqual(set(pool.map(ask, range(40))), {503})
                    self.assertLess(client.info("stats")["total_connections_received"] - before, 20)
                    said = [line for line in server.log().splitlines() if re.search(r"Z +(WARN|ERROR) (?!oneport::net::admission)", line)]
                    self.assertEqual(len(said), 1, "\n".join(said[:5]))
                    self.assertRegex(said[0], expected)
                    self.assertNotIn("pw@", server.log())
                    client.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{password}", "~*", "+@all")
                    until(lambda: ask(0) == 200, "Redis to be asked again")


if __name__ == "__main__":
    unittest.main()
