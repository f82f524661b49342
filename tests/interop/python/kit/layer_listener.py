"""Listeners, members that keep all they are shown; and speakers, which send at a pace until they are stopped."""

import http.client
import json
import threading
import time

from websockets.exceptions import ConnectionClosed

from .deadline import DEADLINE, Late
from .layer_case import TOKEN, Member

# Routes, as `more` of a server: members of the groups of `long` who only listen, with recovery and without the history.
LISTENERS = """
[[websocket.route]]
path = "/ws/listen/{room:slug}/"
name = "listen"
consumer = "feed"
options = { groups = ["long_{room}"], history = 20_000, recover = true }

[[websocket.route]]
path = "/ws/live/{room:slug}/"
name = "live"
consumer = "feed"
options = { groups = ["long_{room}"] }
"""


class Listener(Member):
    """A member that keeps what it is shown. `recovers`: its first frame is `oneport.joined`."""

    def __init__(self, server, path, user=None, *, recovers=True, **options):
        super().__init__(server, path, user, **options)
        self.server = server
        self.seen = []
        self.first = self.joined() if recovers else None

    @property
    def recovered(self):
        return self.first["recovered"]

    @property
    def position(self):
        """The last position it was shown."""
        return next((event["offset"] for event in reversed(self.seen) if "offset" in event), self.first["offset"])

    @property
    def heard(self):
        """The messages, in the order in which they were shown."""
        return [event["message"] for event in self.seen if event["type"] == "chat.message"]

    def collect(self, seconds=0.0):
        """Reads what comes within that time, at least what is there; returns itself."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.seen.append(json.loads(self.socket.recv(timeout=max(0.0, end - time.monotonic()))))
            except (TimeoutError, ConnectionClosed):
                return self

    def collect_for(self, messages, seconds):
        """Reads until it has been shown all these messages, or that time is over; returns those that are missing."""
        awaited = set(messages) - set(self.heard)
        end = time.monotonic() + seconds
        while awaited:
            try:
                event = json.loads(self.socket.recv(timeout=max(0.0, end - time.monotonic())))
            except TimeoutError:
                break
            self.seen.append(event)
            awaited.discard(event.get("message"))
        return awaited

    def collect_until(self, messages, deadline=DEADLINE):
        """Reads until it has been shown all these messages; returns itself."""
        missing = self.collect_for(messages, deadline)
        if missing:
            raise Late(f"expected all messages within {deadline} s, found {len(missing)} missing, such as {sorted(missing)[:5]}")
        return self

    def drop(self):
        """Reads what is there and closes the connection without a word; returns the last position."""
        self.collect()
        self.__exit__()
        return self.position


class Speaker:
    """Sends `NAME 0`, `NAME 1` and so on, one each `pause` seconds, until it is stopped."""

    def __init__(self, name, say, pause=0.004):
        self.name = name
        self.said = []
        self._say = say
        self._pause = pause
        self._stopped = threading.Event()
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._stopped.wait(self._pause):
                message = f"{self.name} {len(self.said)}"
                self._say(message)
                self.said.append(message)
        except Exception as error:  # noqa: BLE001 - raised again in `stop`
            self._error = error

    def stop(self):
        """Stops it; returns all that it has sent."""
        self._stopped.set()
        self._thread.join(DEADLINE)
        if self._error is not None:
            raise self._error
        return self.said


def speaks(member):
    """Returns a function that sends a message on a socket of `chat`."""
    return lambda message: member.say({"message": message})


class Caller:
    """Sends messages to a group through the server API, on one connection."""

    def __init__(self, server, group):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self._path = f"/api/groups/{group}"

    def __call__(self, message):
        event = {"type": "chat.message", "message": message}
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        self._connection.request("POST", self._path, json.dumps(event), headers)
        response = self._connection.getresponse()
        found = response.read()
        if response.status != 200:
            raise AssertionError(f"expected 200 for {message!r}, found {response.status} {found[:200]!r}")

    def close(self):
        self._connection.close()


def difference(found, said):
    """Compares the messages that a member was shown with all that was said, by speaker; returns a sentence, or `None`."""
    found = list(found)
    wanted = [message for messages in said for message in messages]
    lost = sorted(set(wanted) - set(found), key=lambda message: message.split()[0])
    strange = set(found) - set(wanted)
    twice = len(found) - len(set(found))
    order = [speaker[0].split()[0] for speaker in said if speaker and [each for each in found if each in set(speaker)] != speaker]
    if not (lost or strange or twice or order):
        return None
    return (
        f"expected {len(wanted)} messages once each, found {len(found)}: {len(lost)} missing {lost[:5]}, {twice} twice, "
        f"{len(strange)} that were not sent, not whole and in order: {order}"
    )
