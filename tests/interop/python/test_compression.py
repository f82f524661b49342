"""Compression: permessage-deflate as RFC 7692 wants it, by the `websockets` library and by frames made by hand."""

import asyncio
import functools
import itertools
import json
import random
import time
import unittest
import zlib

from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory as Offer

from kit.deadline import DEADLINE
from kit.frames import BINARY, CONTINUATION, PING, PONG, TEXT, Bytes, RawSocket, encode
from kit.peer import Peer
from kit.server import Server

LIMIT = 2 << 20


def route(name, **settings):
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join([f'\n[[websocket.route]]\npath = "/ws/{name}/"\nname = "{name}"\nconsumer = "echo"', *lines, ""])


KEPT = {"server_context_takeover": True, "client_context_takeover": True}

# The compression settings of each route, and an extension that is accepted.
ROUTES = {
    "default": {},
    "fresh": {"compression_threshold": "0 B"},
    "kept": {"compression_threshold": "0 B", **KEPT},
    "server-kept": {"compression_threshold": "0 B", "server_context_takeover": True},
    "client-kept": {"compression_threshold": "0 B", "client_context_takeover": True},
    "small": {"compression_threshold": "0 B", "server_max_window_bits": 9, "client_max_window_bits": 9, **KEPT},
    "middle": {"compression_level": 9, "server_max_window_bits": 12, "client_max_window_bits": 11, **KEPT},
    "small-fresh": {"compression_threshold": "0 B", "server_max_window_bits": 9, "client_max_window_bits": 9},
}

CONFIG = (
    """
[websocket]
max_message = "2 MiB"
send_queue = "16 MiB"
close_timeout = "2s"
"""
    + "".join(route(name, **settings) for name, settings in ROUTES.items())
    + route("off", compression="off")
    + route("narrow", max_message="64 KiB", **KEPT)
    + "".join(
        f"""
[[websocket.route]]
path = "/ws/all/{name}/"
consumer = "broadcast"
options = {{ group = "all" }}
{settings}
"""
        for name, settings in {
            "fresh": "",
            "kept": 'compression_threshold = "0 B"\nserver_context_takeover = true\nclient_context_takeover = true',
            "small": "server_max_window_bits = 9\nserver_context_takeover = true",
            "level": "compression_level = 9",
            "off": 'compression = "off"',
        }.items()
    )
    + """
[[websocket.route]]
path = "/ws/chat/{room:slug}/"
consumer = "chat"
compression_threshold = "0 B"
server_context_takeover = true
client_context_takeover = true
options = { group = "chat_{room}" }
"""
)


@functools.cache
def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


@functools.cache
def words(size, seed=0):
    """Returns text that compresses well, with repetitions near and far."""
    chosen = random.Random(seed)
    vocabulary = [noise(chosen.randrange(2, 9), n).hex() for n in range(400)]
    parts, length = [], 0
    while length < size:
        parts.append(chosen.choice(vocabulary) + " ")
        length += len(parts[-1])
    return "".join(parts)[:size]


def far_apart(seed=0):
    """Returns bytes that come again after 300 bytes to 40 KB: just inside and outside of each window."""
    block = noise(200, seed)
    gaps = (100, 56, 312, 824, 1848, 3896, 7992, 16184, 32568, 40000)
    return b"".join(block + noise(gap, seed + gap) for gap in gaps) + block


SIZES = (1, 2, 125, 126, 127, 255, 256, 257, 65535, 65536, 65537)

MESSAGES = [
    "",
    b"",
    *(noise(size, size) for size in SIZES),
    *(words(size, size) for size in SIZES),
    *(b"\x00" * size for size in SIZES),
    "grüße ☕ \U0001f980 " * 3000,
    "\U0001f980",
    far_apart(),
    far_apart(),
    "",
    words(5000).encode(),
]

BRIEF = ["", "a", words(3000), far_apart(7), b"", noise(1000, 7), far_apart(7), words(3000), "grüße ☕ \U0001f980 " * 30]


class Compression(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def peer(self, name, *offers):
        return self.enterContext(Peer(self.server, f"/ws/{name}/", extensions=offers or None))

    def talk(self, peer, messages, ahead=1):
        """Sends messages and expects them back, with `ahead` of them in flight."""
        for first in range(0, len(messages), ahead):
            some = messages[first : first + ahead]
            for message in some:
                peer.send(message)
            for number, message in enumerate(some, first):
                back = peer.receive()
                if back != message:
                    found = f"{back[:40]!r} ({len(back)})"
                    self.fail(f"expected message {number} back, {message[:40]!r} ({len(message)}), found {found}")

    def agreed(self, peer):
        """Returns what the library understood: windows and takeover, of the server and of the client; `None` without."""
        extensions = peer.socket.protocol.extensions
        if not extensions:
            return None
        (one,) = extensions
        return (
            (one.remote_max_window_bits, not one.remote_no_context_takeover),
            (one.local_max_window_bits, not one.local_no_context_takeover),
        )

    def test_who_offers_nothing_gets_nothing_and_every_message_comes_back(self):
        for name in (*ROUTES, "off"):
            with self.subTest(route=name):
                peer = self.peer(name)
                self.assertIsNone(self.agreed(peer))
                self.talk(peer, BRIEF)

    def test_a_route_without_compression_agrees_to_nothing(self):
        for offers in ([Offer()], [Offer(True, True, 9, 9)], [Offer(server_max_window_bits=10), Offer()]):
            peer = self.peer("off", *offers)
            self.assertIsNone(self.agreed(peer))
            self.talk(peer, BRIEF)

    def test_every_message_comes_back_whatever_is_kept(self):
        for name, server_no, client_no in itertools.product(ROUTES, (False, True), (False, True)):
            with self.subTest(route=name, server_no=server_no, client_no=client_no):
                peer = self.peer(name, Offer(server_no_context_takeover=server_no, client_no_context_takeover=client_no))
                settings = ROUTES[name]
                (_, server), (_, client) = self.agreed(peer)
                self.assertEqual(server, settings.get("server_context_takeover", False) and not server_no)
                self.assertEqual(client, settings.get("client_context_takeover", False) and not client_no)
                self.talk(peer, MESSAGES)
                peer.socket.close(1000)

    def test_every_message_comes_back_whatever_the_windows(self):
        windows = (9, 10, 11, 12, 13, 14, 15)
        for name in ("kept", "small", "middle", "fresh"):
            settings = ROUTES[name]
            pairs = list(itertools.product((None, *windows), (None, True, *windows)))
            for server, client in pairs if name == "kept" else pairs[::7]:
                with self.subTest(route=name, server=server, client=client):
                    peer = self.peer(name, Offer(server_max_window_bits=server, client_max_window_bits=client))
                    bound = settings.get("client_max_window_bits", 15)
                    wanted = 15 if client is None else bound if client is True else min(client, bound)
                    self.assertEqual(
                        [bits for bits, _ in self.agreed(peer)],
                        [min(server or 15, settings.get("server_max_window_bits", 15)), wanted],
                    )
                    self.talk(peer, BRIEF)
                    peer.socket.close(1000)

    def test_a_window_of_eight_bits_for_the_server_is_passed_over_and_the_next_offer_counts(self):
        for name in ("kept", "fresh", "small"):
            with self.subTest(route=name):
                alone = self.peer(name, Offer(server_max_window_bits=8))
                self.assertIsNone(self.agreed(alone))
                self.talk(alone, BRIEF)
                second = self.peer(name, Offer(server_max_window_bits=8), Offer(server_max_window_bits=10))
                self.assertEqual(self.agreed(second)[0][0], 9 if name == "small" else 10)
                self.talk(second, BRIEF)

    def test_a_message_of_a_mebibyte_comes_back(self):
        for name in ("fresh", "kept", "small"):
            with self.subTest(route=name):
                peer = self.peer(name, Offer())
                self.talk(peer, [words(1 << 20), noise(1 << 20), b"\x00" * (1 << 20), words(1 << 20, 1), "short"])

    def test_two_hundred_messages_in_a_row_keep_their_order_and_their_contexts(self):
        for name in ROUTES:
            with self.subTest(route=name):
                peer = self.peer(name, Offer())
                chosen = random.Random(42)
                messages = []
                for number in range(200):
                    size = chosen.choice((0, 1, 40, 300, 2000, 9000))
                    messages.append(words(size, number % 7) if number % 3 else noise(size, number % 5))
                self.talk(peer, messages, ahead=50)

    def test_a_message_in_fragments_comes_back_whole(self):
        for name in ROUTES:
            with self.subTest(route=name):
                peer = self.peer(name, Offer())
                for parts in (
                    ["a"],
                    ["", "", ""],
                    [words(700, n) for n in range(9)],
                    ["grüße ", "☕", "\U0001f980"],
                    [noise(700), b""],
                ):
                    peer.send(iter(parts))
                    self.assertEqual(peer.receive(), ("" if isinstance(parts[0], str) else b"").join(parts))

    def test_what_is_kept_makes_a_repeated_message_small(self):
        text = words(3000)
        for name, is_smaller in (("kept", True), ("server-kept", True), ("client-kept", False), ("fresh", False)):
            with self.subTest(route=name):
                peer = self.peer(name, Offer())
                extension = peer.socket.protocol.extensions[0]
                sizes, decode = [], extension.decode

                def measure(frame, *, max_size=None, decode=decode, sizes=sizes):
                    sizes.append((frame.rsv1, len(frame.data)))
                    return decode(frame, max_size=max_size)

                extension.decode = measure
                self.talk(peer, [text] * 3)
                self.assertTrue(all(is_compressed and size < len(text) for is_compressed, size in sizes), sizes)
                self.assertEqual(sizes[2][1] < sizes[0][1] / 10, is_smaller, sizes)

    def test_whatever_compressor_a_client_has_it_is_understood(self):
        ways = [{"level": level} for level in (0, 1, 6, 9)]
        ways += [{"memLevel": 1}, {"memLevel": 9}]
        ways += [{"strategy": way} for way in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED, zlib.Z_FILTERED)]
        for name, way in itertools.product(("kept", "fresh"), ways):
            with self.subTest(route=name, way=way):
                self.talk(self.peer(name, Offer(compress_settings=way)), BRIEF + [words(70000), noise(70000)])

    def test_the_limit_is_the_limit_of_what_was_compressed(self):
        limit = 64 << 10
        for message in ("a" * limit, noise(limit), words(limit)):
            peer = self.peer("narrow", Offer())
            self.talk(peer, [message])
            peer.send(message + message[:1])
            self.assertEqual(peer.closed()[0], 1009)

    def test_a_small_frame_that_would_become_large_is_1009_and_costs_no_memory(self):
        before = self.server.resident_bytes()
        for name in ("narrow", "fresh"):
            with self.subTest(route=name):
                peer = self.peer(name, Offer(compress_settings={"level": 9}))
                peer.send(b"\x00" * (64 << 20))
                self.assertEqual(peer.closed()[0], 1009)
        self.assertLess(self.server.resident_bytes() - before, 32 << 20)

    def test_members_of_a_group_hear_the_same_whatever_each_agreed_to(self):
        members = [
            self.peer("all/fresh", Offer()),
            self.peer("all/fresh", Offer(server_max_window_bits=9)),
            self.peer("all/fresh", Offer(server_max_window_bits=12, client_no_context_takeover=True)),
            self.peer("all/fresh"),
            self.peer("all/kept", Offer()),
            self.peer("all/kept", Offer(server_no_context_takeover=True)),
            self.peer("all/kept", Offer(server_max_window_bits=9)),
            self.peer("all/kept", Offer(client_max_window_bits=10)),
            self.peer("all/kept"),
            self.peer("all/small", Offer()),
            self.peer("all/level", Offer()),
            self.peer("all/off", Offer()),
        ]
        messages = ["", b"", "a", words(255), words(256), far_apart(), noise(5000), "grüße ☕ \U0001f980 " * 300, words(65536)]
        for number, sender in enumerate(members):
            for message in messages:
                sender.send(message)
            for at, member in enumerate(members):
                for message in messages:
                    self.assertEqual(member.receive(), message, f"from {number} to {at}")

    def test_what_a_group_says_and_what_is_for_one_alone_do_not_disturb_each_other(self):
        anna, ben = self.peer("chat/mixed", Offer()), self.peer("chat/mixed", Offer())
        for number in range(60):
            text = words(number * 40 + 1, number % 3)
            (anna if number % 2 else ben).say({"message": text})
            for peer in (anna, ben):
                self.assertEqual(peer.next("chat.message")["message"], text)
            for _ in range(number % 4):
                anna.say({"type": "who"})
                self.assertEqual(anna.next("chat.who")["members"], 2)
            ben.say({"message": ""})
            self.assertEqual(ben.next("chat.error")["code"], "invalid_message")


class FragmentsFromAStream(unittest.IsolatedAsyncioTestCase):
    async def test_a_message_that_is_made_while_it_is_sent_comes_back_whole(self):
        with Server(CONFIG) as server:

            async def parts(kind):
                for number in range(20):
                    await asyncio.sleep(0.001)
                    yield words(1000, number) if kind is str else noise(1000, number)

            async with asyncio.timeout(DEADLINE):
                for name in ROUTES:
                    options = {"origin": server.origin, "max_size": None, "proxy": None}
                    async with connect(f"ws://{server.host}/ws/{name}/", **options) as socket:
                        self.assertEqual([one.name for one in socket.protocol.extensions], ["permessage-deflate"])
                        await asyncio.gather(socket.send(parts(str)), (await socket.ping(b"between")))
                        self.assertEqual(await socket.recv(), "".join(words(1000, number) for number in range(20)))
                        await socket.send(parts(bytes))
                        self.assertEqual(await socket.recv(), b"".join(noise(1000, number) for number in range(20)))


class Deflated(RawSocket):
    """A socket whose handshake offers what a test wants offered."""

    def __init__(self, server, path, offer):
        Bytes.__init__(self, ("127.0.0.1", server.port))
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
            f"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode()
        )
        status, fields = self.head()
        assert status == 101, f"expected 101, found {status}"
        self.agreed = fields.get("sec-websocket-extensions")


def deflate(payload, wbits=15, flush=zlib.Z_SYNC_FLUSH, **options):
    context = zlib.compressobj(wbits=-wbits, **options)
    data = context.compress(payload) + context.flush(flush)
    return data.removesuffix(b"\x00\x00\xff\xff")


def inflate(payload, wbits=15):
    return zlib.decompressobj(-wbits).decompress(payload + b"\x00\x00\xff\xff")


class CompressedFrames(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def raw(self, name="fresh", offer="permessage-deflate"):
        return self.enterContext(Deflated(self.server, f"/ws/{name}/", offer))

    def test_the_answer_is_what_the_offer_allows(self):
        fresh = "; server_no_context_takeover; client_no_context_takeover"
        for name, offer, answer in (
            ("kept", "", ""),
            ("fresh", "", fresh),
            ("kept", "; server_no_context_takeover", "; server_no_context_takeover"),
            ("kept", "; client_no_context_takeover", "; client_no_context_takeover"),
            ("kept", "; client_max_window_bits", ""),
            ("kept", "; client_max_window_bits=8", "; client_max_window_bits=8"),
            ("kept", "; server_max_window_bits=9", "; server_max_window_bits=9"),
            # A client that names a window for the server expects one in the response (RFC 7692 §7.1.2.1).
            ("kept", "; server_max_window_bits=15", "; server_max_window_bits=15"),
            ("small", "", "; server_max_window_bits=9"),
            ("small", "; client_max_window_bits", "; server_max_window_bits=9; client_max_window_bits=9"),
        ):
            with self.subTest(route=name, offer=offer):
                found = self.raw(name, f"permessage-deflate{offer}").agreed
                self.assertEqual(found, f"permessage-deflate{answer}")

    def test_an_offer_that_is_no_offer_is_passed_over_and_the_socket_opens(self):
        for offer in (
            "x-webkit-deflate-frame",
            "permessage-bzip2; level=9",
            "permessage-deflate; nonsense",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=8",
        ):
            with self.subTest(offer=offer):
                raw = self.raw(offer=offer)
                self.assertIsNone(raw.agreed)
                raw.say(TEXT, b"plain")
                self.assertEqual(raw.frame().payload, b"plain")
                self.assertIsNotNone(self.raw(offer=f"{offer}, permessage-deflate").agreed)

    def test_a_client_with_a_window_of_eight_bits_is_understood(self):
        for name in ("kept", "client-kept", "fresh", "small"):
            with self.subTest(route=name):
                raw = self.raw(name, "permessage-deflate; client_max_window_bits=8; server_no_context_takeover")
                self.assertIn("client_max_window_bits=8", raw.agreed)
                for number in range(50):
                    # No message is longer than the window, and each is for itself.
                    payload = words(256, number).encode()
                    raw.say(TEXT, deflate(payload, 9), rsv=4)
                    frame = raw.frame()
                    self.assertEqual(inflate(frame.payload) if frame.rsv == 4 else frame.payload, payload)

    def test_every_form_of_a_compressed_message_is_understood(self):
        payload = words(5000).encode()
        final = deflate(payload, flush=zlib.Z_FINISH)
        forms = {
            "sync": deflate(payload),
            "full": deflate(payload, flush=zlib.Z_FULL_FLUSH),
            "a final block, then an empty one": final + b"\x00",
            "stored": deflate(payload, level=0),
            "fixed": deflate(payload, strategy=zlib.Z_FIXED),
            "with the tail left on": deflate(payload) + b"\x00\x00\xff\xff\x00",
            "two streams": deflate(payload[:100], flush=zlib.Z_FINISH) + deflate(payload[100:]),
        }
        for name, (what, form) in itertools.product(("fresh", "client-kept"), forms.items()):
            with self.subTest(route=name, what=what):
                raw = self.raw(name)
                raw.say(TEXT, form, rsv=4)
                frame = raw.frame()
                self.assertEqual((frame.opcode, frame.rsv, inflate(frame.payload)), (TEXT, 4, payload))

    def test_an_empty_message_may_be_compressed_too(self):
        for name in ("fresh", "kept"):
            for payload in (b"\x00", b"", b"\x02\x00", b"\x03\x00"):
                with self.subTest(route=name, payload=payload):
                    raw = self.raw(name)
                    raw.say(TEXT, payload, rsv=4)
                    self.assertEqual(raw.frame().payload, b"")

    def test_a_frame_of_each_byte_is_still_one_message(self):
        payload = words(600).encode()
        form = deflate(payload)
        for name in ("fresh", "kept"):
            raw = self.raw(name)
            for _ in range(2):
                raw.say(TEXT, b"", fin=False, rsv=4)
                for at in range(len(form)):
                    raw.say(CONTINUATION, form[at : at + 1], fin=False)
                raw.say(PING, b"between")
                raw.say(CONTINUATION)
                self.assertEqual(raw.frame().opcode, PONG)
                self.assertEqual(raw.frame().opcode, TEXT)

    def test_bytes_that_come_one_at_a_time_are_still_one_message(self):
        payload = words(1000).encode()
        raw = self.raw()
        for byte in encode(TEXT, deflate(payload), rsv=4):
            raw.send(bytes([byte]))
            time.sleep(0.0005)
        self.assertEqual(inflate(raw.frame().payload), payload)

    def test_what_is_wrong_ends_with_its_code(self):
        text = deflate(words(500).encode())
        begun = encode(TEXT, text, fin=False, rsv=4)
        plain = encode(TEXT, b"a", fin=False)
        for what, code, frames in (
            ("no DEFLATE", 1007, encode(BINARY, b"\xff" * 20, rsv=4)),
            ("no text", 1007, encode(TEXT, deflate(b"\xc3\x28"), rsv=4)),
            ("a text that stops within a character", 1007, encode(TEXT, deflate("é".encode()[:1]), rsv=4)),
            ("a continuation that says it is compressed", 1002, begun + encode(CONTINUATION, b"", rsv=4)),
            ("a continuation of a plain message that does", 1002, plain + encode(CONTINUATION, text, rsv=4)),
            ("a ping that is compressed", 1002, encode(PING, deflate(b"a"), rsv=4)),
            ("a close that is compressed", 1002, encode(8, deflate(b"\x03\xe8"), rsv=4)),
            ("another reserved bit", 1002, encode(TEXT, text, rsv=6)),
            ("a pointer before the beginning", 1007, encode(BINARY, deflate(noise(300), zdict=noise(300)), rsv=4)),
        ):
            with self.subTest(what=what):
                raw = self.raw()
                raw.send(frames)
                self.assertEqual(raw.frame().code, code)
                self.assertTrue(raw.is_at_end())

    def test_a_reserved_bit_that_nobody_agreed_to_is_1002(self):
        for raw in (self.raw("off"), self.raw(offer="permessage-deflate; nonsense")):
            raw.say(TEXT, deflate(b"hello"), rsv=4)
            self.assertEqual(raw.frame().code, 1002)

    def test_without_takeover_a_pointer_to_the_message_before_is_1007(self):
        payload = noise(300)
        context = zlib.compressobj(wbits=-15)
        one, two = (context.compress(payload) + context.flush(zlib.Z_SYNC_FLUSH) for _ in range(2))
        for name, is_fine in (("client-kept", True), ("fresh", False)):
            with self.subTest(route=name):
                raw = self.raw(name)
                raw.say(BINARY, one[:-4], rsv=4)
                self.assertEqual(raw.frame().payload, payload)
                raw.say(BINARY, two[:-4], rsv=4)
                frame = raw.frame()
                self.assertEqual(frame.payload if is_fine else frame.code, payload if is_fine else 1007)

    def test_the_server_keeps_to_its_window(self):
        payload = far_apart()
        for bits in range(9, 16):
            for name in ("kept", "fresh"):
                with self.subTest(route=name, bits=bits):
                    raw = self.raw(name, f"permessage-deflate; server_max_window_bits={bits}")
                    context = zlib.decompressobj(-bits)
                    for message in (payload, words(9000).encode(), payload, payload):
                        raw.say(BINARY, message)
                        frame = raw.frame()
                        if name == "fresh":
                            context = zlib.decompressobj(-bits)
                        found = context.decompress(frame.payload + b"\x00\x00\xff\xff") if frame.rsv else frame.payload
                        self.assertEqual(found, message)

    def test_short_messages_and_those_that_would_grow_stay_plain(self):
        raw = self.raw("default")
        for payload, rsv in ((b"a" * 255, 0), (b"a" * 256, 4), (noise(5000), 0), (words(5000).encode(), 4), (b"", 0)):
            raw.say(BINARY, payload)
            self.assertEqual(raw.frame().rsv, rsv, f"{payload[:20]!r} {len(payload)}")


if __name__ == "__main__":
    unittest.main()
