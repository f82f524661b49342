"""Restart under load: no request fails, no connection is refused or reset, and no event is lost, while processes are replaced.

ONEPORT_MEMBERS is the number of sockets in the group, 1000 unless it is set.
"""

import asyncio
import socket
import time
import unittest

from kit.deadline import DEADLINE
from kit.layer_case import connected
from kit.load import Http1, Http2, Load, Member, Publisher, members_wanted
from kit.redis_server import Redis
from kit.restart import SecureRestartServer
from kit.tls import Authority
from test_listeners import activated

TOKEN = "the-token-of-the-load"
DRAIN = 10

CONFIG = """
[log]
access = false

[server.timeouts]
drain = "{drain}s"

[server.limits]
connections_per_ip = 100_000

[channel_layer]
backend = "{redis}"

[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "load", token = "{token}", groups = ["*"] }}] }}

[[websocket.route]]
path = "/ws/count/"
consumer = "feed"
options = {{ groups = ["count"], history = 5000, recover = true }}
"""

# Requests per second: 200 in all, with the publisher.
CLIENTS = [
    ("keep-alive", 12, 5, lambda load: Http1(load)),
    ("new", 4, 10, lambda load: Http1(load, is_new=True)),
    ("keep-alive, TLS", 6, 5, lambda load: Http1(load, tls=True)),
    ("new, TLS", 2, 5, lambda load: Http1(load, tls=True, is_new=True)),
    ("HTTP/2", 4, 5, lambda load: Http2(load)),
    ("HTTP/2, TLS", 6, 5, lambda load: Http2(load, tls=True)),
]
PUBLISHED_PER_SECOND = 10


class Case(unittest.TestCase):
    def setUp(self):
        self.redis = self.enterContext(Redis())
        self.authority = Authority()

    def config(self):
        return CONFIG.format(drain=DRAIN, redis=self.redis.url(), token=TOKEN)

    def check(self, address, restarts, least):
        """Puts load on an address while each of `restarts` is called on a thread. Each closes at least so many sockets."""

        async def main():
            load = Load(address, tls=self.authority.context)
            members = [Member(load, "/ws/count/") for _ in range(members_wanted())]
            tasks, took = [], []
            for member in members:
                tasks.append(asyncio.create_task(member.run()))
                await asyncio.sleep(0.002)  # below the limits of a listen queue
            async with asyncio.timeout(3 * DEADLINE):
                for member in members:
                    await member.joined.wait()
            self.assertEqual(load.failures, [])
            publisher = Publisher(load, "/api/groups/count", TOKEN)
            tasks.append(asyncio.create_task(load.run("publish", publisher, PUBLISHED_PER_SECOND)))
            for kind, count, rate, client in CLIENTS:
                tasks += [asyncio.create_task(load.run(kind, client(load), rate)) for _ in range(count)]
            await asyncio.sleep(1)
            for restart in restarts:
                before = sum(len(member.told) for member in members)
                began = time.monotonic()
                await asyncio.to_thread(restart)
                ended = [at for member in members for _, at in member.told][before:]
                self.assertEqual(load.failures, [])
                self.assertGreaterEqual(len(ended), least)
                took.append(max(at for member in members for _, at in member.told) - began)
                self.assertLess(took[-1], DRAIN)
                await asyncio.sleep(1)
            async with asyncio.timeout(DEADLINE):
                while not all(member.numbers and member.numbers[-1] >= publisher.published - 1 for member in members):
                    self.assertEqual(load.failures, [])
                    await asyncio.sleep(0.05)
            load.is_over = True
            published = publisher.published
            for task in tasks[len(members) :]:
                await task
            for task in tasks[: len(members)]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return load, members, published, took

        load, members, published, took = asyncio.run(main())
        self.assertEqual(load.failures, [])
        for member in members:
            self.assertEqual(member.numbers[:published], list(range(published)))
        self.assertEqual(set(load.answers), {"publish", *(kind for kind, *_ in CLIENTS)})
        told = [f"{seconds:.1f} s" for seconds in took]
        print(f"\n{sum(load.answers.values())} requests {load.answers}, {published} events to {len(members)} members; all told 1012 within {told}")


class Restart(Case):
    def test_nothing_is_lost(self):
        server = SecureRestartServer(self.authority, self.config(), settings='plaintext = "serve"\n')
        with server:
            connected(server)
            self.check(("127.0.0.1", server.port), [server.restart] * 2, members_wanted())


class TwoProcessesBehindSystemdSockets(Case):
    def test_nothing_is_lost(self):
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            address = listener.getsockname()
            servers = []
            for name in ("one", "two"):
                server = SecureRestartServer(
                    self.authority,
                    self.config(),
                    settings='plaintext = "serve"\n',
                    server=f'name = "{name}"',
                    bind="fd:3",
                    start=activated(listener),
                )
                servers.append(self.enterContext(server))
                connected(server)
            # Each process has a share of the members, and those of one that is replaced go to both.
            self.check(address, [server.restart for server in servers], members_wanted() // 10)


if __name__ == "__main__":
    unittest.main()
