"""User command: it decides who may log in, and also ends the open sockets of removed users."""

import json
import subprocess
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.deadline import DEADLINE
from kit.login_case import CHECK, MOMENT, Login, gateway
from kit.server import binary
from kit.terminal import Terminal
from kit.visitor import PASSWORD, Visitor, add_user, user

CONFIG = '[auth]\nusers = "sqlite:users.db"\n'
OTHER = "another good password"


class Command(unittest.TestCase):
    """In a directory of its own, with a table that is made at the first command."""

    def setUp(self):
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        self.config = self.write(CONFIG)

    def write(self, text, name="oneport.toml"):
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def command(self, *arguments, config=None):
        return [binary(), "user", "--config", config or self.config, *arguments]

    def run_user(self, *arguments, typed="", config=None):
        return subprocess.run(
            self.command(*arguments, config=config),
            input=typed if isinstance(typed, bytes) else typed.encode(),
            capture_output=True,
            timeout=DEADLINE,
            cwd=self.directory,
        )

    def add(self, name, *more, typed=f"{PASSWORD}\n"):
        return self.run_user("add", "--password-stdin", *more, "--", name, typed=typed)

    def fails(self, done, code, *words):
        """Holds that a command failed with this code and a sentence with these words, and no trace of a crash."""
        self.assertEqual(done.returncode, code, done)
        said = done.stderr.decode()
        for word in words:
            self.assertIn(word, said)
        self.assertNotIn("panicked", said)
        self.assertEqual(done.stdout, b"")

    def names(self):
        done = self.run_user("list", "--format", "json")
        self.assertEqual(done.returncode, 0, done)
        return [found["name"] for found in json.loads(done.stdout)]


class Table(Command):
    def test_there_is_nobody_at_first(self):
        self.assertEqual(self.names(), [])
        done = self.run_user("list")
        self.assertEqual((done.returncode, done.stdout), (0, b""))

    def test_the_list_says_who_is_there_by_name(self):
        for name, *more in (("zoe",), ("berta", "--staff"), ("anna",)):
            done = self.add(name, *more)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertIn(name, done.stdout.decode())
        found = json.loads(self.run_user("list", "--format", "json").stdout)
        without_id = [{key: value for key, value in one.items() if key != "id"} for one in found]
        wanted = [{"name": name, "is_active": True, "is_staff": name == "berta"} for name in ("anna", "berta", "zoe")]
        self.assertEqual(without_id, wanted)
        self.assertEqual(len({one["id"] for one in found}), 3)
        lines = self.run_user("list").stdout.decode().splitlines()
        self.assertEqual([line.split()[1:] for line in lines], [["anna"], ["berta", "staff"], ["zoe"]])

    def test_the_list_shows_no_hash(self):
        self.add("anna")
        for form in ("json", "table"):
            self.assertNotIn(b"argon2", self.run_user("list", "--format", form).stdout)

    def test_a_name_is_taken_once(self):
        self.assertEqual(self.add("anna").returncode, 0)
        self.fails(self.add("anna", typed=f"{OTHER}\n"), 1, "anna")
        self.assertEqual(self.names(), ["anna"])

    def test_of_many_at_once_one_gets_the_name_and_all_others_are_told(self):
        self.add("first")
        with ThreadPoolExecutor(8) as pool:
            codes = [done.returncode for done in pool.map(lambda _: self.add("anna"), range(8))]
        self.assertEqual(sorted(codes), [0] + [1] * 7)
        self.assertEqual(self.names(), ["anna", "first"])

    def test_many_at_once_make_the_table_together(self):
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda number: self.add(f"user{number}"), range(8)))
        self.assertEqual([(one.returncode, one.stderr) for one in done], [(0, b"")] * 8)
        self.assertEqual(self.names(), [f"user{number}" for number in range(8)])

    def test_a_name_that_nobody_has_is_1(self):
        self.add("anna")
        for name in ("berta", "Anna", "", "%", "' OR '1'='1"):
            with self.subTest(name=name):
                self.fails(
                    self.run_user("passwd", "--password-stdin", "--", name, typed=f"{OTHER}\n"),
                    1,
                    "no such user: ",
                )
                self.fails(self.run_user("remove", "--", name), 1, "no such user: ")
        self.assertEqual(self.names(), ["anna"])

    def test_who_was_removed_can_be_added_again(self):
        self.add("anna")
        done = self.run_user("remove", "anna")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(self.names(), [])
        self.assertEqual(self.add("anna").returncode, 0)
        self.fails(self.run_user("remove", "berta"), 1)
        self.assertEqual(self.names(), ["anna"])

    def test_a_name_has_1_to_150_characters_and_nothing_that_is_not_seen(self):
        for name in ("a", "é" * 150, "two words", "o'brien", "-", "--staff", "a@example.com", "☕"):
            with self.subTest(name=name):
                self.assertEqual(self.add(name).returncode, 0)
        for name in ("", "a" * 151, "a\nb", "a\tb", " a", "a ", "\x7f", "\x1b[31m", "a\u0085"):
            with self.subTest(name=name):
                done = self.add(name)
                self.fails(done, 1, "expected a name")
                self.assertNotIn(b"\x1b", done.stderr)

    def test_the_table_is_for_its_owner_alone(self):
        self.add("anna")
        self.assertEqual((self.directory / "users.db").stat().st_mode & 0o077, 0)


class FromStandardInput(Command):
    def test_the_password_is_the_first_line_without_its_end(self):
        lines = {"lf": "long enough\n", "crlf": "long enough\r\n", "none": "long enough", "more": "long enough\nsecond line\n"}
        config = '[auth]\nusers = "sqlite:site.db"\n'
        for name, typed in lines.items():
            done = self.run_user("add", "--password-stdin", name, typed=typed, config=self.write(config, "site.toml"))
            self.assertEqual((done.returncode, done.stderr), (0, b""), name)
        stored = self.directory / "site.db"
        with gateway(file=stored) as server:
            for name in lines:
                with self.subTest(name=name):
                    self.assertEqual(Visitor(server).try_to_log_in(name, "long enough").status, 303)
                    self.assertEqual(Visitor(server).try_to_log_in(name, lines[name]).status, 401 if name != "none" else 303)

    def test_a_password_has_8_characters_and_no_more_than_4096_bytes(self):
        for number, good in enumerate(("12345678", "é" * 8, "        ", "a" * 4096)):
            with self.subTest(good=good[:10]):
                self.assertEqual(self.add(f"user{number}", typed=good + "\n").returncode, 0)
        for bad in ("", "\n", "1234567\n", "é" * 7 + "\n", "\n12345678\n", "a" * 4097, "é" * 2049):
            with self.subTest(bad=bad[:10]):
                self.fails(self.add("bad", typed=bad), 1, "the password must have at")
        self.assertNotIn("bad", self.names())

    def test_what_is_no_text_is_1(self):
        self.fails(self.add("bad", typed=b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\n"), 1, "password")
        self.assertEqual(self.names(), [])

    def test_a_new_password_has_to_be_as_good_and_a_bad_one_changes_nothing(self):
        self.add("anna")
        self.fails(self.run_user("passwd", "--password-stdin", "anna", typed="short\n"), 1, "at least 8 characters")
        done = self.run_user("passwd", "--password-stdin", "anna", typed=f"{OTHER}\n")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertIn(b"anna", done.stdout)

    def test_without_a_terminal_it_says_what_to_do(self):
        done = subprocess.run(
            self.command("add", "anna"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
            cwd=self.directory,
            start_new_session=True,
        )
        self.fails(done, 1, "--password-stdin")
        self.assertEqual(self.names(), [])


class AtATerminal(Command):
    def terminal(self, *arguments):
        return self.enterContext(Terminal(self.command(*arguments), cwd=self.directory))

    def type_twice(self, terminal, first, second):
        """Types at both prompts; returns the exit code."""
        terminal.wait_for("Password: ")
        terminal.type_hidden(first)
        terminal.wait_for("Repeat the password: ")
        terminal.type_hidden(second)
        return terminal.ended()

    def test_the_password_is_asked_for_twice_and_never_shown(self):
        terminal = self.terminal("add", "anna")
        self.assertEqual(self.type_twice(terminal, PASSWORD, PASSWORD), 0)
        self.assertNotIn(PASSWORD[:6], terminal.said)
        self.assertIn("added anna", terminal.said)
        self.assertFalse(terminal.is_hidden())
        self.assertEqual(self.names(), ["anna"])

    def test_two_that_differ_are_1_and_nobody_is_added(self):
        terminal = self.terminal("add", "anna")
        self.assertEqual(self.type_twice(terminal, PASSWORD, PASSWORD + "!"), 1)
        self.assertIn("the passwords do not match", terminal.said)
        self.assertNotIn(PASSWORD[:6], terminal.said)
        self.assertFalse(terminal.is_hidden())
        self.assertEqual(self.names(), [])

    def test_a_short_one_is_1(self):
        terminal = self.terminal("add", "anna")
        self.assertEqual(self.type_twice(terminal, "short", "short"), 1)
        self.assertIn("at least 8 characters", terminal.said)
        self.assertEqual(self.names(), [])

    def test_a_new_password_is_asked_for_too(self):
        self.add("anna")
        terminal = self.terminal("passwd", "anna")
        self.assertEqual(self.type_twice(terminal, OTHER, OTHER), 0)
        self.assertNotIn(OTHER[:6], terminal.said)

    def test_who_cannot_be_added_is_told_before_a_password_is_typed(self):
        self.add("anna")
        for arguments, word in (
            (("add", "anna"), "anna"),
            (("add", "a\tb"), "expected a name"),
            (("passwd", "berta"), "no such user: "),
        ):
            with self.subTest(arguments=arguments):
                terminal = self.terminal(*arguments)
                self.assertEqual(terminal.ended(), 1)
                self.assertIn(word, terminal.said)
                self.assertNotIn("Password:", terminal.said)

    def test_the_end_of_the_input_at_the_prompt_is_1(self):
        terminal = self.terminal("add", "anna")
        terminal.wait_for("Password: ")
        terminal.type_hidden("\x04")
        self.assertEqual(terminal.ended(), 1)
        self.assertEqual(self.names(), [])


class Refused(Command):
    def test_usage_is_64(self):
        for arguments in (
            (),
            ("nonsense",),
            ("add",),
            ("remove",),
            ("add", "a", "b"),
            ("list", "anna"),
            ("list", "--format", "xml"),
            ("add", "anna", PASSWORD),
        ):
            with self.subTest(arguments=arguments):
                self.fails(self.run_user(*arguments), 64)

    def test_a_configuration_that_is_wrong_is_78(self):
        broken = (
            "nonsense = 1\n",
            "[[[",
            '[auth]\nusers = "memory"\n',
            '[auth]\nusers = "mysql://root@localhost/x"\n',
            '[auth]\nusers = "sqlite:"\n',
        )
        for number, text in enumerate(broken):
            with self.subTest(text=text):
                path = self.write(text, f"broken{number}.toml")
                for arguments in (("list",), ("add", "--password-stdin", "anna"), ("remove", "anna")):
                    self.fails(self.run_user(*arguments, config=path, typed=f"{PASSWORD}\n"), 78, path.name)
        self.fails(self.run_user("list", config=self.directory / "missing.toml"), 78, "missing.toml")

    def test_the_users_of_a_django_project_are_its_own(self):
        (self.directory / "django.db").touch()
        for users in ("django+sqlite:django.db", "django+postgres://owner:s3cret@127.0.0.1:1/site"):
            text = f'[server]\nsecret_key = "{"k" * 50}"\n[session]\nstore = "{users}"\n[auth]\nusers = "{users}"\n'
            path = self.write(text, "django.toml")
            for arguments in (
                ("list",),
                ("add", "--password-stdin", "anna"),
                ("passwd", "--password-stdin", "anna"),
                ("remove", "anna"),
            ):
                with self.subTest(users=users, arguments=arguments):
                    done = self.run_user(*arguments, config=path, typed=f"{PASSWORD}\n")
                    self.fails(done, 78, "Django")
                    self.assertNotIn(b"s3cret", done.stderr)
        self.assertEqual((self.directory / "django.db").read_bytes(), b"")

    def test_a_table_that_cannot_be_opened_is_1(self):
        (self.directory / "nonsense.db").write_bytes(b"this is no database " * 100)
        (self.directory / "directory.db").mkdir()
        for file in ("missing/users.db", "nonsense.db", "directory.db"):
            with self.subTest(file=file):
                path = self.write(f'[auth]\nusers = "sqlite:{file}"\n', "away.toml")
                self.fails(self.run_user("list", config=path), 1, file)
                self.fails(self.run_user("add", "--password-stdin", "anna", config=path, typed=f"{PASSWORD}\n"), 1, file)

    def test_a_server_that_is_away_is_1_and_its_password_is_not_said(self):
        path = self.write(
            '[auth]\nusers = "postgres://owner:s3cret@127.0.0.1:1/site"\n[server]\nsecret_key = "0123456789abcdef0123456789abcdef"\n'
        )
        done = self.run_user("list", config=path)
        self.fails(done, 1)
        self.assertNotIn(b"s3cret", done.stderr)


class BesideAServer(Login):
    """Which looks at the logins of live sockets every half second."""

    def live(self):
        """Returns a server, with two who are logged in and have a socket."""
        server = self.start(check_interval="500ms")
        add_user(server, "berta")
        anna, berta = Visitor(server).log_in("anna"), Visitor(server).log_in("berta")
        return server, anna, self.chat(anna, "one")[0], berta, self.chat(berta, "one")[0]

    def ends(self, peer):
        began = time.monotonic()
        self.assertEqual(peer.closed(), (4401, "the login has ended"))
        self.assertLess(time.monotonic() - began, CHECK + MOMENT)

    def test_somebody_who_is_added_while_it_runs_can_log_in(self):
        server = self.start()
        self.assertEqual(Visitor(server).try_to_log_in("late").status, 401)
        add_user(server, "late", "--staff")
        self.assertEqual(Visitor(server).log_in("late").request("/staff/").status, 200)

    def test_a_removed_user_is_logged_out_everywhere(self):
        server, anna, peer, berta, stays = self.live()
        user(server, "remove", "anna")
        self.ends(peer)
        self.assertIsNone(anna.name())
        self.assertEqual(Visitor(server).try_to_log_in("anna").status, 401)
        self.is_open(stays)
        self.assertEqual(berta.name(), "berta")
        self.assertRegex(server.log(), r"cause=\W*session_ended")

    def test_who_gets_the_name_of_a_removed_user_gets_nothing_else_of_it(self):
        server, anna, peer, _, _ = self.live()
        user(server, "remove", "anna")
        add_user(server, "anna", "--staff", password=OTHER)
        self.ends(peer)
        self.assertIsNone(anna.name())
        self.assertEqual(Visitor(server).try_to_log_in("anna").status, 401)
        self.assertEqual(Visitor(server).log_in("anna", password=OTHER).name(), "anna")

    def test_a_new_password_ends_all_logins_of_the_user(self):
        server, anna, peer, berta, stays = self.live()
        again = Visitor(server).log_in("anna")
        user(server, "passwd", "--password-stdin", "anna", typed=f"{OTHER}\n")
        self.ends(peer)
        self.assertEqual([visitor.name() for visitor in (anna, again, berta)], [None, None, "berta"])
        self.is_open(stays)
        self.assertEqual(Visitor(server).try_to_log_in("anna").status, 401)
        self.assertEqual(Visitor(server).log_in("anna", password=OTHER).name(), "anna")

    def test_the_same_password_anew_ends_the_logins_too(self):
        server, anna, peer, _, _ = self.live()
        user(server, "passwd", "--password-stdin", "anna", typed=f"{PASSWORD}\n")
        self.ends(peer)
        self.assertIsNone(anna.name())


if __name__ == "__main__":
    unittest.main()
