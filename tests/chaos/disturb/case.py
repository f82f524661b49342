"""Case: a test that disturbs a server and prints its vitals as one line of a table."""

import signal
import time
import unittest

from kit.deadline import until
from kit.peer import Peer

from .server import Disturbed
from .vitals import Record, Vitals


def tail(server, lines=20):
    """Returns the end of its log, for messages."""
    return "\n".join(server.log().splitlines()[-lines:])


class Chaos(unittest.TestCase):
    """`start` gives the server; `self.record` has its vitals."""

    record = None

    def start(self, config, *more, **options):
        """Starts a server of the test's own, which must end with 0 after SIGTERM."""
        server = self.enterContext(Disturbed(config, *more, **options))
        self.watch(server)
        return server

    def watch(self, server):
        """Begins the record of a running server's vitals, which the end of the test prints."""
        if self.record is None:
            # Runs before the server is stopped: cleanups run last in, first out.
            self.addCleanup(self._print)
        self.record = Record(server.pid)
        until(self._is_settled, "the connections of the start to be closed")

    def _is_settled(self):
        """Tells whether the descriptors were as many at ten readings in a row; the last is kept."""
        readings = [Vitals.of(self.record.pid)]
        for _ in range(9):
            time.sleep(0.02)
            readings.append(Vitals.of(self.record.pid))
        self.record.before = readings[-1]
        return all(one and one.descriptors == readings[0].descriptors for one in readings)

    def _print(self):
        if self.record.highest is None:
            self.record.during()
        self.record.finish()
        print(self.record.line(self.id()), flush=True)

    def peer(self, server, path="/ws/echo/"):
        return self.enterContext(Peer(server, path))

    def is_open(self, peer):
        peer.send("still here")
        self.assertEqual(peer.receive(), "still here")
        self.record.during()

    def ends_in_order(self, server, *peers):
        """SIGTERM closes the sockets with 1001, and the exit code is 0."""
        self.record.finish()
        server.signal(signal.SIGTERM)
        for peer in peers:
            self.assertEqual(peer.closed()[0], 1001)
        server.wait()

    def reload(self, server, config, path, wanted):
        """Sends SIGHUP and waits until a path has the new table's answer; the log need not be readable."""
        server.write(config)
        server.signal(signal.SIGHUP)
        until(lambda: server.request(path)[2] == wanted, "the table of the new file")

    def is_served(self, server, path="/health/"):
        self.assertEqual(server.request(path)[0], 200)
        self.record.during()

    def assert_memory_grew_by_at_most(self, mebibytes, reading=None):
        """Compares with the reading before; allocators keep some of what was freed, so bounds are generous."""
        found = reading or self.record.during()
        grown = (found.resident - self.record.before.resident) / 2**20
        self.assertLessEqual(grown, mebibytes, f"memory grew by {grown:.1f} MiB")
