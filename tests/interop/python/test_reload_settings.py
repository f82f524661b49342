"""Reload of sessions, users, keys and tickets: who stays logged in, and what a store that cannot be opened changes."""


from kit.deadline import until
from kit.login_case import KEY, Login
from kit.server import WATCHED
from kit.visitor import Visitor

OLD, NEW = ("a" * 40, "b" * 40)
CHECK = "500ms"


class ReloadSettings(Login):
    def visitor(self, server, name="anna"):
        visitor = Visitor(server)
        visitor.log_in(name)
        return visitor

    def change(self, server, *changes):
        """Reloads with some texts of the configuration replaced; returns the log."""
        text = server.config.read_text(encoding="utf-8").removesuffix(WATCHED)
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new)
        return server.reload(text)

    def test_a_key_that_becomes_a_fallback_keeps_logins_and_one_that_does_not_ends_them(self):
        server = self.start(server=f'secret_key = "{OLD}"', check_interval=CHECK)
        visitor = self.visitor(server)
        peer, _ = self.chat(visitor, "one")
        said = self.change(server, (f'secret_key = "{OLD}"', f'secret_key = "{NEW}"\nsecret_key_fallbacks = ["{OLD}"]'))
        self.assertIn("server.secret_key, server.secret_key_fallbacks", said)
        self.assertNotIn(OLD, said)
        self.assertNotIn(NEW, said)
        self.assertEqual(visitor.name(), "anna")
        self.is_open(peer)
        later = self.visitor(server)
        self.change(server, (f'secret_key_fallbacks = ["{OLD}"]', ""))
        self.assertIsNone(visitor.name())
        self.assertEqual(later.name(), "anna")
        self.assertEqual(peer.closed()[0], 4401)

    def test_sessions_stay_in_the_store_under_another_cookie_and_end_with_another_store(self):
        server = self.start(store="memory", session='cookie = "first"')
        visitor = self.visitor(server)
        self.assertRegex(visitor.cookies["first"], KEY)
        self.change(server, ('cookie = "first"', 'cookie = "second"\nmax_age = "1h"'))
        self.assertIsNone(visitor.name())
        visitor.cookies["second"] = visitor.cookies["first"]
        self.assertEqual(visitor.name(), "anna")
        self.change(server, ('"memory"', '"sqlite:sessions.db"'))
        self.assertIsNone(visitor.name())
        visitor = self.visitor(server)
        self.assertEqual(visitor.name(), "anna")
        self.assertTrue((server.directory / "sessions.db").exists())

    def test_a_store_that_cannot_be_opened_refuses_the_reload(self):
        server = self.start(store="memory")
        visitor = self.visitor(server)
        (server.directory / "a.directory").mkdir()
        said = self.change(server, ('"memory"', '"sqlite:a.directory"'))
        self.assertRegex(said, r"oneport\.toml:\d+:\d+: session\.store: ")
        self.assertIn("reload failed", said)
        self.assertEqual(visitor.name(), "anna")

    def test_logins_of_sockets_are_checked_at_the_new_interval(self):
        server = self.start(check_interval="1h", server=f'secret_key = "{OLD}"')
        peer, _ = self.chat(self.visitor(server), "one")
        self.change(server, ('"1h"', f'"{CHECK}"'), (OLD, NEW))
        self.assertEqual(peer.closed()[0], 4401)

    def test_another_table_of_users_is_used(self):
        server = self.start()
        visitor = self.visitor(server)
        self.change(server, ('users = "sqlite:site.db"', 'users = "sqlite:others.db"'))
        self.assertIsNone(visitor.name())
        self.assertEqual(Visitor(server).try_to_log_in("anna").status, 401)
        self.change(server, ('users = "sqlite:others.db"', 'users = "sqlite:site.db"'))
        until(lambda: visitor.name() == "anna", "the login")


