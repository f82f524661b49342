"""Violations: frames that break RFC 6455 get a close frame with the code, and then the end of the stream."""

import unittest

from kit.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, close_payload, encode
from kit.server import Server

CONFIG = """
[[websocket.route]]
path = "/ws/echo/"
name = "echo"
consumer = "echo"
"""

INVALID_UTF8 = {
    "a byte that never occurs": b"\xff",
    "an overlong form": b"\xc0\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a cut character": "ö".encode()[:1],
    "a stray continuation byte": b"ok \x80",
}


class Violations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def ends_with(self, code, *frames):
        """Sends the frames; the close frame with this code must arrive, and an orderly end after it."""
        with RawSocket(self.server, "/ws/echo/") as raw:
            raw.send(b"".join(frames))
            frame = raw.frame()
            self.assertEqual((frame.opcode, frame.fin, frame.rsv), (CLOSE, True, 0), frame)
            self.assertEqual(frame.code, code, frame)
            self.assertTrue(raw.is_at_end())

    def test_an_unmasked_frame_is_1002(self):
        for opcode in (TEXT, BINARY, PING, CLOSE):
            with self.subTest(opcode=opcode):
                self.ends_with(1002, encode(opcode, b"", masked=False))
        self.ends_with(1002, encode(TEXT, b"payload", masked=False))

    def test_a_reserved_bit_is_1002(self):
        for rsv in (1, 2, 4, 7):
            for opcode in (TEXT, BINARY, PING):
                with self.subTest(rsv=rsv, opcode=opcode):
                    self.ends_with(1002, encode(opcode, b"payload", rsv=rsv))

    def test_a_reserved_opcode_is_1002(self):
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            with self.subTest(opcode=opcode):
                self.ends_with(1002, encode(opcode, b"payload"))

    def test_a_continuation_of_nothing_is_1002(self):
        self.ends_with(1002, encode(CONTINUATION, b"stray"))
        self.ends_with(1002, encode(CONTINUATION, b"stray", fin=False))

    def test_a_new_message_inside_a_fragmented_one_is_1002(self):
        self.ends_with(1002, encode(TEXT, b"one", fin=False), encode(TEXT, b"two"))
        self.ends_with(1002, encode(BINARY, b"one", fin=False), encode(TEXT, b"two", fin=False))

    def test_a_fragmented_control_frame_is_1002(self):
        for opcode in (PING, PONG, CLOSE):
            with self.subTest(opcode=opcode):
                self.ends_with(1002, encode(opcode, b"", fin=False))

    def test_a_control_frame_over_125_bytes_is_1002(self):
        for opcode, payload in ((PING, b"a" * 126), (PONG, b"a" * 126), (CLOSE, close_payload(1000, b"a" * 124))):
            with self.subTest(opcode=opcode):
                self.ends_with(1002, encode(opcode, payload))

    def test_a_length_with_the_top_bit_is_1002_or_1009(self):
        with RawSocket(self.server, "/ws/echo/") as raw:
            raw.send(b"\x82\xff" + b"\xff" * 8 + b"key!")
            self.assertIn(raw.frame().code, (1002, 1009))
            self.assertTrue(raw.is_at_end())

    def test_a_close_frame_of_one_byte_is_1002(self):
        self.ends_with(1002, encode(CLOSE, b"\x03"))

    def test_a_close_code_nobody_may_send_is_1002(self):
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
            with self.subTest(code=code):
                self.ends_with(1002, encode(CLOSE, close_payload(code)))

    def test_a_close_reason_that_is_no_utf8_is_1007(self):
        self.ends_with(1007, encode(CLOSE, close_payload(1000, b"\xff")))

    def test_a_text_that_is_no_utf8_is_1007(self):
        for what, payload in INVALID_UTF8.items():
            with self.subTest(what):
                self.ends_with(1007, encode(TEXT, payload))

    def test_a_text_in_fragments_that_is_no_utf8_is_1007(self):
        for what, payload in INVALID_UTF8.items():
            with self.subTest(what):
                self.ends_with(1007, encode(TEXT, b"fine ", fin=False), encode(CONTINUATION, payload))
                self.ends_with(1007, *(encode(TEXT, payload[:1], fin=False), encode(CONTINUATION, payload[1:])))

    def test_a_wrong_fragment_is_found_before_the_message_is_whole(self):
        self.ends_with(1007, encode(TEXT, b"fine", fin=False), encode(CONTINUATION, b"\xff wrong", fin=False))

    def test_the_close_frame_arrives_even_when_much_is_unread_behind_the_wrong_frame(self):
        with RawSocket(self.server, "/ws/echo/") as raw:
            raw.send(encode(TEXT, b"\xff"))
            try:
                for _ in range(64):
                    raw.send(encode(BINARY, bytes(16 * 1024)))
            except (BrokenPipeError, ConnectionResetError):
                self.fail("expected the server to read on until its close frame was read, found a reset")
            self.assertEqual(raw.frame().code, 1007)

    def test_what_was_right_before_the_violation_was_answered(self):
        with RawSocket(self.server, "/ws/echo/") as raw:
            raw.send(encode(TEXT, b"right") + encode(CONTINUATION, b"wrong"))
            self.assertEqual(raw.frame().payload, b"right")
            self.assertEqual(raw.frame().code, 1002)

    def test_other_sockets_do_not_notice(self):
        with RawSocket(self.server, "/ws/echo/") as good:
            self.ends_with(1002, encode(3, b""))
            good.say(TEXT, b"hi")
            self.assertEqual(good.frame().payload, b"hi")


if __name__ == "__main__":
    unittest.main()
