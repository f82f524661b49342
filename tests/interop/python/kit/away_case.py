"""Cases in which Redis is killed, is stopped, or stands still with its connections open."""

from contextlib import contextmanager
from functools import wraps

from .layer_case import API, LEASE, MOMENT, TIMEOUT, LayerCase, connected, disconnected

# The time within which a process notices that Redis is paused: it checks every third of a lease.
NOTICED = LEASE / 3 + TIMEOUT + MOMENT

WAYS = "killed", "stopped", "frozen"


def each_way(*ways):
    """Makes a test for each way in which Redis may be unavailable, each with a room of its own."""

    def of(test):
        @wraps(test)
        def of_all(self):
            for way in ways or WAYS:
                with self.subTest(way):
                    self.anew()
                    test(self, way)

        return of_all

    return of


class AwayCase(LayerCase):
    more = API

    def anew(self):
        """Ends what an earlier claim of the same test has opened, and takes another room."""
        self.doCleanups()
        self.setUp()
        self.back()

    def back(self):
        """Waits until all servers have Redis."""
        if not self.redis.is_running:
            self.redis.start()
        self.redis.thaw()
        for server in self.servers():
            connected(server)

    def leave(self, way):
        {"killed": self.redis.kill, "stopped": self.redis.stop, "frozen": self.redis.freeze}[way]()

    def come_back(self, way):
        {"killed": self.redis.start, "stopped": self.redis.start, "frozen": self.redis.thaw}[way]()

    @contextmanager
    def away(self, way, *, noticed=True):
        """Redis is unavailable inside, and is used again after it."""
        self.leave(way)
        try:
            if noticed:
                for server in self.servers():
                    disconnected(server)
            yield
        finally:
            self.come_back(way)
        self.back()

    def quick(self, member, message, deadline=MOMENT):
        """Waits for a message, not long."""
        self.assertEqual(member.messages(1, deadline), [message])
