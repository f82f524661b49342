"""Time zones: a Django project that writes local times has its sessions end when Django ends them, wherever it is.

SQLite's column does not say in which zone a time is: it is UTC with `USE_TZ`, and without it `TIME_ZONE`.
"""

import re
import subprocess
import tempfile
import time
import unittest
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from kit.deadline import DEADLINE, until
from kit.django_project import DjangoProject
from kit.server import Server, binary
from test_database_away import CONFIG, KEY, PAGES

ZONES = ["Asia/Tokyo", "America/Los_Angeles", "UTC"]

# Seconds that a short session has left, and how late its end may be noticed.
BRIEF = 3
MOMENT = 1.5


def shown(zone):
    """Returns the offset of a zone now, as the log shows it."""
    offset = datetime.now(ZoneInfo(zone)).strftime("%z")
    return f"{offset[:3]}:{offset[3:]}"


class TimeZones(unittest.TestCase):
    def project(self, zone, use_tz, **settings):
        project = self.enterContext(DjangoProject({"SECRET_KEY": KEY, "TIME_ZONE": zone, "USE_TZ": use_tz, **settings}))
        project.create_user("anna")
        return project

    def store(self, project):
        return f'"django+sqlite:{project.sqlite}"'

    def gateway(self, project, time_zone):
        store = self.store(project)
        config = CONFIG.format(key=KEY, store=store, users=store, login="") + f'[session.django]\ntime_zone = "{time_zone}"\n'
        return self.enterContext(Server(config, files=PAGES))

    def knows(self, server, browser):
        status, _, body = server.request("/page/", headers=browser.headers)
        self.assertEqual(status, 200, body)
        return body.decode() != "nobody"

    def test_a_session_ends_when_django_ends_it(self):
        for zone in ZONES:
            for use_tz in (True, False):
                with self.subTest(zone, use_tz=use_tz):
                    project = self.project(zone, use_tz)
                    server = self.gateway(project, "" if use_tz else zone)
                    lasting, brief = project.browser("anna"), project.browser("anna")
                    self.assertTrue(self.knows(server, lasting))
                    brief.remember(_expiry=BRIEF)
                    ends = time.monotonic() + BRIEF
                    self.assertTrue(self.knows(server, brief))
                    until(lambda: not self.knows(server, brief), "the end of a session", BRIEF + MOMENT)
                    self.assertLess(abs(time.monotonic() - ends), MOMENT)
                    self.assertIsNone(brief.name())  # which is what Django says
                    self.assertTrue(self.knows(server, lasting))
                    self.assertNotIn("time_zone is", server.log())

    def test_a_connection_of_its_own_time_zone_counts_as_that(self):
        project = self.project("UTC", True)
        databases = project.settings["DATABASES"]
        databases["default"]["TIME_ZONE"] = "Asia/Tokyo"
        project.restart(DATABASES=databases)
        server = self.gateway(project, "Asia/Tokyo")
        brief = project.browser("anna")
        brief.remember(_expiry=BRIEF)
        self.assertTrue(self.knows(server, brief))
        until(lambda: not self.knows(server, brief), "the end of a session", BRIEF + MOMENT)
        self.assertNotIn("time_zone is", server.log())

    def test_a_setting_that_does_not_fit_is_named_once_with_the_offset_that_does(self):
        for zone, use_tz, setting in [
            ("Asia/Tokyo", False, ""),
            ("America/Los_Angeles", False, ""),
            ("UTC", True, "Asia/Tokyo"),
            ("Asia/Tokyo", True, "Asia/Tokyo"),
            ("America/Los_Angeles", False, "Asia/Tokyo"),
        ]:
            with self.subTest(zone, use_tz=use_tz, setting=setting):
                project = self.project(zone, use_tz)
                server = self.gateway(project, setting)
                # One that has expired by the wrong clock, or lasts too long, says it as well.
                lasting, brief = project.browser("anna"), project.browser("anna")
                brief.remember(_expiry=600)
                for browser in (brief, lasting, brief):
                    self.knows(server, browser)
                said = [line for line in server.log().splitlines() if "session.django.time_zone" in line]
                self.assertEqual(len(said), 1, server.log())
                expected = shown("UTC" if use_tz else zone)
                self.assertIn(f"written with an offset of {expected}", said[0])
                self.assertRegex(said[0], rf" WARN .*{re.escape(setting)}")

    def test_another_age_of_sessions_is_no_other_zone(self):
        for age in (1800, timedelta(days=30).total_seconds()):
            project = self.project("Asia/Tokyo", False, SESSION_COOKIE_AGE=int(age))
            server = self.gateway(project, "Asia/Tokyo")
            self.assertTrue(self.knows(server, project.browser("anna")))
            self.assertNotIn("time_zone is", server.log())

    def test_check_warns_where_no_column_needs_a_zone(self):
        for store in ("django+postgres://u@h/db", "django+redis://h/0", "django+signed_cookies:"):
            with self.subTest(store), tempfile.TemporaryDirectory() as place:
                users = "django+postgres://u@h/db"
                config = CONFIG.format(key=KEY, store=f'"{store}"', users=f'"{users}"', login="")
                for name, text in {**PAGES, "oneport.toml": config + '[session.django]\ntime_zone = "Asia/Tokyo"\n'}.items():
                    (Path(place) / name).parent.mkdir(exist_ok=True)
                    (Path(place) / name).write_text(text)
                command = [binary(), "check", "--config", Path(place) / "oneport.toml"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertRegex(done.stdout + done.stderr, rf'session.django.time_zone: .*"Asia/Tokyo" has no effect with {re.escape(store)}')


if __name__ == "__main__":
    unittest.main()
