"""A Django project (`project/`) in a process of its own, and browsers that log in to it."""

import http.client
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

from .deadline import DEADLINE, Late, until

_PROJECT = Path(__file__).resolve().parent / "project"
PASSWORD = "correct horse battery"


class DjangoProject:
    """A running project. `settings` are Django's; without DATABASES it has an SQLite file of its own."""

    def __init__(self, settings):
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-django-"))
        self.sqlite = self.directory / "db.sqlite3"
        self.settings = {"DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(self.sqlite)}}, **settings}
        self._process = None
        self.port = None

    def __enter__(self):
        try:
            self.start("--migrate")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, *arguments):
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-B", "serve.py", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=_PROJECT,
                env={**os.environ, "PROJECT_SETTINGS": json.dumps(self.settings)},
            )
        self.port = int(until(self._listens, lambda: f"a Django project that listens\n{self.log()}", 3 * DEADLINE)[1])

    def restart(self, **settings):
        """Restarts it with other settings, as a deployment does."""
        self._end()
        self.settings.update(settings)
        self.start()

    def close(self):
        """Leaves nothing behind."""
        if self._process is not None:
            self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        return (self.directory / "stderr").read_text(encoding="utf-8", errors="replace")

    def control(self, what, /, **values):
        """Runs what an administrator does in Django's shell; returns the output."""
        return json.loads(Browser(self).ask(f"/control/{what}/", json.dumps(values), "application/json", wanted=200)[1])

    def create_user(self, name, **fields):
        """Returns the new user's primary key as a text."""
        return self.control("create_user", name=name, password=PASSWORD, **fields)["id"]

    def update_user(self, name, **fields):
        self.control("update_user", name=name, **fields)

    def delete_user(self, name):
        self.control("delete_user", name=name)

    def browser(self, name=None, password=PASSWORD):
        """Returns a browser, logged in if a user is named."""
        browser = Browser(self)
        if name is not None:
            browser.log_in(name, password)
        return browser

    def tables(self, *names):
        """Returns all rows of tables of its SQLite file."""
        connection = sqlite3.connect(f"file:{self.sqlite}?mode=ro", uri=True, timeout=DEADLINE)
        try:
            return {name: connection.execute(f'SELECT * FROM "{name}" ORDER BY 1').fetchall() for name in names}
        finally:
            connection.close()

    def _listens(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected a Django project, found exit code {self._process.returncode}\n{self.log()}")
        return re.search(r"listens at (\d+)\n", (self.directory / "stdout").read_text(encoding="utf-8"))

    def _end(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise Late(f"expected Django to end within {DEADLINE} s") from None
        finally:
            self._process = None


class Browser:
    """Keeps cookies, and fills in forms: those of a Django project, or of a server under test."""

    def __init__(self, site):
        self._site = site
        self.cookies = {}

    @property
    def headers(self):
        """The header fields by which its cookies come to Oneport."""
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    @property
    def session(self):
        """The value of the session's cookie."""
        return self.cookies["sessionid"]

    def copy(self):
        """Returns a browser with these cookies, which gets no later ones."""
        other = Browser(self._site)
        other.cookies.update(self.cookies)
        return other

    def log_in(self, name, password=PASSWORD):
        """Logs in by Django's own view."""
        self.submit("/login/", username=name, password=password)
        assert self.name() == name, f"expected Django to know {name}, found {self.whoami()}"

    def log_out(self):
        self.submit("/logout/", form="/login/")

    def change_password(self, new, old=PASSWORD):
        self.submit("/password/", old_password=old, new_password1=new, new_password2=new)

    def remember(self, **values):
        """Lets a view of Django put values into the session."""
        self.ask("/remember/", json.dumps(values), "application/json", wanted=200)

    def forget(self):
        """Lets a view of Django flush the session."""
        self.ask("/forget/", "{}", "application/json", wanted=200)

    def whoami(self):
        """Returns the key and the name by which Django knows its user."""
        return json.loads(self.ask("/whoami/", wanted=200)[1])

    def name(self):
        return self.whoami()["name"]

    def token(self, path):
        """Returns the token of the form on a page."""
        page = self.ask(path, wanted=200)[1]
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert found, f"expected a form with a token on {path}, found {page}"
        return found[1]

    def submit(self, path, form=None, wanted=302, **fields):
        """Reads a form's page (`form`, if it is on another one) and sends it back filled in."""
        filled = urlencode({"csrfmiddlewaretoken": self.token(form or path), **fields})
        return self.ask(path, filled, "application/x-www-form-urlencoded", wanted=wanted)

    def ask(self, path, body=None, kind=None, *, wanted=None):
        """Makes one request; returns status and text, and keeps the cookies."""
        connection = http.client.HTTPConnection("127.0.0.1", self._site.port, timeout=DEADLINE)
        try:
            headers = {**(self.headers if self.cookies else {}), **({"Content-Type": kind} if kind else {})}
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            text = response.read().decode("utf-8")
        finally:
            connection.close()
        self._keep(response.headers.get_all("Set-Cookie") or [])
        if wanted is not None and response.status != wanted:
            raise AssertionError(f"expected {wanted} for {path}, found {response.status}: {text}\n{self._site.log()}")
        return response.status, text

    def _keep(self, fields):
        for field in fields:
            for name, morsel in SimpleCookie(field).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
