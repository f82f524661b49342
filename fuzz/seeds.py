#!/usr/bin/env python3
"""Writes the corpus's seeds again: `python3 fuzz/seeds.py`. The vectors of the tests are among them.

Targets whose last bytes choose how the input is used (see each target) get them here.
"""

import base64
import json
import struct
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
REPOSITORY = FUZZ.parent
CORPUS = FUZZ / "corpus"


def frame(first, payload=b"", key=b"\x37\xfa\x21\x3d", length=None):
    """A masked frame of a client."""
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0xFE]) + struct.pack(">H", size)
    else:
        head = bytes([first, 0xFF]) + struct.pack(">Q", size)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def h2(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def routing():
    table = "/\n/hello/{name:slug}/\n/hello/{*rest}\n/n/{id:int}\n/n/{id}x\n/n/x{id}\n/u/{key:uuid}/{file}.{{txt\n/{*all}\n"
    yield "table", table + "\n/hello/bob/\n/hello/a/b\n/n/7\n/n/7x\n/n/x7x\n/%68ello/b%2Fb/\n/u/12345678-1234-1234-1234-1234567890ab/a.{txt"
    yield "slashes", "/a/\n/b\n/{x}/\n\n/a\n/b/\n//a/\n/c\n\n/a/../b\n/a/%2e%2E/b"
    yield "escapes", "/caf\u00e9/{x}\n/%/{x}\n/a b\n\n/caf%C3%A9/%25\n/%25/a%2Fb\n/a%20b\n/a%00\n/%zz"
    yield "order", "/a{x}\n/{x}a\n/ab{x}\n/{x}\n/{x:int}\n/{x:slug}\n/a\n\n/aa\n/aba\n/ab\n/7\n/a-b\n/a.b"


def readings():
    yield from routing()
    yield "protected", "/admin/{*rest}\n/{*rest}\n\n/admin%2Fusers\n//admin/users\n/x;/admin\n/projects/a%2fb\n/a%5c..\\b\n/%3bx/admin;y\n//x/admin"


def handshake():
    plain = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    yield "plain", plain + "\r\n"
    yield "subprotocols", plain + "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\nOrigin: http://a\r\n\r\n"
    yield "deflate", plain + "Sec-WebSocket-Extensions: x, permessage-deflate; client_max_window_bits; server_max_window_bits=\"10\", permessage-deflate\r\n\r\n"
    yield "connect", "CONNECT / HTTP/1.1\r\nSec-WebSocket-Version: 13\r\n\r\n"
    yield "old", plain.replace("13", "8") + "Content-Length: 1\r\n\r\n"


def frames():
    for size in (0, 1, 7):
        end = bytes([size])
        yield f"messages-{size}", frame(0x81, "h\u00e9".encode()) + frame(0x82, bytes(200)) + frame(0x89, b"p") + frame(0x8A) + frame(0x88, b"\x03\xe8bye") + end
        yield f"fragments-{size}", frame(0x01, b"\xc3") + frame(0x89, b"p") + frame(0x00, b"\xa9") + frame(0x80, b"!") + end
        yield f"long-{size}", frame(0x82, bytes(1000)) + frame(0x82, bytes(1001)) + end
    for name, bad in {
        "unmasked": b"\x81\x02hi", "reserved": frame(0xC1, b"x"), "opcode": frame(0x83, b"x"),
        "claimed": frame(0x82, b"", length=1 << 62), "ping": frame(0x09, b"x"), "continuation": frame(0x80, b"x"),
        "utf8": frame(0x81, b"\xce\xba\xff"), "close": frame(0x88, b"x"), "close-code": frame(0x88, b"\x03\xed"),
        "nested": frame(0x01, b"a") + frame(0x81, b"b"),
    }.items():
        yield name, bad + b"\0"


def deflate():
    import zlib

    def compressed(text, bits=15, final=False, context=None):
        context = context or zlib.compressobj(6, zlib.DEFLATED, -bits)
        whole = context.compress(text) + context.flush(zlib.Z_FINISH if final else zlib.Z_SYNC_FLUSH)
        return whole if final else whole[:-4]

    def message(payload):
        return bytes([len(payload)]) + payload

    text = b"the same words, the same words, " * 20
    shared = zlib.compressobj(6, zlib.DEFLATED, -15)
    both = [compressed(text, context=shared), compressed(text, context=shared)]
    for size in (0, 1, 5):
        end = bytes([size])
        yield f"single-{size}", message(compressed(text)) + message(compressed(b"x")) + end + b"\x06"
        yield f"takeover-{size}", b"".join(map(message, both)) + end + bytes([0xC6 | 7 << 3])
        yield f"final-{size}", message(compressed(text, final=True) + compressed(b"more")) + end + b"\x06"
    yield "window", message(compressed(bytes(range(200)) * 9, bits=9)) + b"\0" + bytes([0x80 | 1 << 3])
    yield "empty", message(b"") + message(b"\0") + b"\0\x06"
    yield "stored", message(b"\x01\x03\x00\xfc\xffabc") + b"\0\x06"


def head_scanner():
    for name, text in {
        "get": "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "fragment": "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "largest": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\nbody",
        "preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "irc": "NICK alice USER\r\n", "empty": "\r\n\r\nHEAD / HTTP/1.1\r\n\r\n",
        "zeros": "PUT / HTTP/1.1\nA: b\ncontent-length:0018446744073709551614 \r\n\r\n",
    }.items():
        yield name, text.encode() + b"\0\0"
        yield name + "-cut", text.encode() + bytes([7, 40])


def cookies():
    yield "several", 'sessionid=a; x="q"; =y; z\nsessionid=b;; csrftoken = c '
    yield "odd", 'a="; b=""; c=="d"; e=\tf\t;\u00fc=1'
    vectors = json.loads((REPOSITORY / "tests/vectors/django.json").read_text())
    for number, one in enumerate(vectors["cookie_parse"]):
        text = next((value for value in one.values() if isinstance(value, str) and "=" in value), None) if isinstance(one, dict) else one[0]
        if text:
            yield f"vector-{number:02}", text


def django_pickle():
    vectors = json.loads((REPOSITORY / "tests/vectors/django.json").read_text())
    for one in vectors["sessions"]:
        if "redis_value_hex" in one:
            yield "cached-session", bytes.fromhex(one["redis_value_hex"])
    import pickle

    value = {"text": "\u00e9\U0001f600", "none": None, "yes": True, "list": [1, -1, 2**70, 1.5, [], {}], "tuple": (1, (2,), (1, 2, 3))}
    value["again"] = value["list"]
    for protocol in range(2, 6):
        yield f"protocol-{protocol}", pickle.dumps(value, protocol)
    yield "import", pickle.dumps({"a": print}, 4)
    yield "itself", b"\x80\x02}q\0X\1\0\0\0ah\0s."
    yield "object", b'{"a": [1, null, true, -1.5, {"b": "c"}]}'


def django_signing():
    vectors = json.loads((REPOSITORY / "tests/vectors/django.json").read_text())
    for number, one in enumerate(vectors["sessions"] + vectors["sessions_negative"]):
        if "session_data" in one:
            yield f"vector-{number:02}", one["session_data"]
    yield "object", '{"_auth_user_id": "1", "n": [1, 2.5, null, "\\ud83d\\ude00"]}'
    yield "python", '{"a": NaN, "b": [-Infinity, Infinity], "NaN": "NaN \\" NaN \\\\", "c": "\\ud800"}'


def channels_redis():
    vectors = json.loads((REPOSITORY / "tests/vectors/channels_redis.json").read_text())
    number = 0
    for layer in ("core", "pubsub"):
        for step in vectors[layer]:
            for command in step["commands"]:
                for argument in command["args"]:
                    written = bytes.fromhex(argument["hex"]) if argument.get("hex") else argument.get("text", "").encode()
                    if written[:2] == b'{"' or (written and 0x80 < written[0] < 0x90):
                        yield f"captured-{number:02}", written
                        number += 1
                    elif len(written) > 12 and 0x80 < written[12] < 0x90:
                        yield f"captured-{number:02}", written[12:]
                        number += 1
    for number, vector in enumerate(vectors["serializer"]):
        yield f"serializer-{number:02}", bytes.fromhex(vector["msgpack_hex"])
    yield "json", '{"type": "a.b", "n": 1e2, "deep": [[[{}]]], "__asgi_channel__": ["x", "y"]}'
    yield "frame", b"\x82\xa4type\xaewebsocket.send\xa5bytes\xc4\x02\0\xff"


def layer_messages():
    event_id = struct.pack(">QQ", 3, 9)
    position = struct.pack(">QQ", 5, 6)
    json_body = b'\x03\x03a.b{"type":"a.b"}'
    number = struct.pack(">IQI", 1, 2, 3)
    yield "event", b"\x01\x01\x00" + event_id + position + json_body + b"\0"
    yield "flags", b"\x01\x01\x0f" + event_id + position + struct.pack(">QQ", 7, 8) + number + b"\x01text" + b"\0"
    yield "stored", b"\x01\x01\x02" + event_id + struct.pack(">Q", 7) + b"\x02\0\xff" + bytes([19])
    yield "channel", b"\x01\x02\x04name" + json_body
    yield "request", b"\x01\x03" + struct.pack(">QQ", 1, 2) + b"{}"
    yield "reply", b"\x01\x04" + struct.pack(">Q", 1) + b"null"
    yield "counted", b"\x01\x05" + struct.pack(">QII", 1, 2, 3)
    yield "registered", b"\x01\x06" + struct.pack(">Q", 1)
    yield "newest", b"\x01\x07" + struct.pack(">Q", 1) + number


def events():
    yield "plain", '{"type": "chat.message", "message": "hi", "n": [1e400, 1.50]}'
    yield "text", '{"type": "websocket.send", "text": "h\\u00e9"}'
    yield "bytes", ' {"bytes": "AP8=", "type": "websocket.send"} '
    yield "twice", '{"type": "a", "typ\\u0065": "b"}'
    yield "surrogate", '{"type":"a.b","x":"\\ud800"}'


def config():
    for file in sorted((REPOSITORY / "tests/it/config/broken").glob("*.toml")):
        yield "broken-" + file.stem, file.read_bytes()
    for file in [REPOSITORY / "config/oneport.toml", *sorted((REPOSITORY / "examples").glob("*.toml"))]:
        yield "shipped-" + file.stem, file.read_bytes()


def forwarded():
    yield "x", "X-Forwarded-For: 203.0.113.7, 10.0.0.2\nX-Forwarded-Proto: https\nX-Forwarded-Host: a.example:8443\nX-Forwarded-Port: 443"
    yield "lists", "x-forwarded-for: , unknown, [2001:db8::1]:80\nX-Forwarded-For: ::ffff:10.1.2.3, 198.51.100.1:_hidden\nX_Forwarded_For: 1.2.3.4"
    yield "standard", 'Forwarded: for="[2001:db8::7]:4711";proto=https;host=a, for=10.0.0.2;by=_x'
    yield "quotes", 'Forwarded: for="x, for=1.2.3.4\nForwarded: for="\\"1", host="a\\\\b";for=unknown'


def proxy_protocol():
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    ipv4 = bytes([198, 51, 100, 7, 192, 0, 2, 1, 0x30, 0x39, 0, 80])
    ipv6 = bytes.fromhex("20010db8000000000000000000000007") + bytes(16) + b"\x30\x39\0\x50"
    for name, text in {
        "tcp4": b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 80\r\nGET / HTTP/1.1\r\n\r\n",
        "tcp6": b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 80\r\n", "unknown": b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx",
        "v2-ipv4": signature + b"\x21\x11\0\x0c" + ipv4 + b"GET /", "v2-ipv6": signature + b"\x21\x21\0\x24" + ipv6,
        "v2-more": signature + b"\x21\x11\0\x13" + ipv4 + b"\x03\0\x04\1\2\3\4x", "v2-local": signature + b"\x20\0\0\0",
        "v2-unix": signature + b"\x21\x31\0\xd8" + bytes(216), "none": b"GET / HTTP/1.1\r\n\r\n", "half": b"PROXY TC",
    }.items():
        yield name, text + b"\0"
        yield name + "-cut", text + b"\x0d"


def ranges():
    for name, text in {
        "one": "bytes=0-9", "several": "bytes=0-1, 3-4 ,, 9-", "suffix": "bytes=-5", "open": "Bytes = 7-",
        "beyond": "bytes=99999999999999999999-", "overlap": "bytes=0-5,3-9", "many": "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 40, 2)),
        "unit": "lines=1-2", "wrong": "bytes=5-1", "none": "bytes=,",
    }.items():
        yield name, text.encode() + b"\0\x64"


def encodings():
    yield "browser", "gzip, deflate, br, zstd"
    yield "weights", "br;q=0.2, identity;q=0.5, gzip;q=0.8\n*;q=0, zstd;Q=1.000"
    yield "odd", "x-gzip;level=4;q=nan,,*;q=1e-3\ngzip;q=.5"


def backend_response():
    yield "all", json.dumps({"ack": 2, "state": {"n": 1}, "events": [
        {"type": "websocket.accept", "subprotocol": None, "headers": [["a", "b"]]}, {"type": "websocket.send", "text": "hi"},
        {"type": "websocket.send", "bytes": "AP8="}, {"type": "websocket.close", "code": 4000, "reason": "r"},
        {"type": "websocket.http.response", "status": 403, "body": "no"}, {"type": "group.add", "group": "a", "deliver": "backend"},
        {"type": "group.discard", "group": "a"}, {"type": "group.send", "group": "a", "event": {"type": "a.b"}, "exclude_self": True}]})
    yield "null", "null"
    yield "empty", " "
    yield "wrong", '{"events": [{"type": "websocket.close", "code": 1006}]}'


def group_patterns():
    yield "param", "chat_{room}\nlobby"
    yield "user", "user_{user.id}\nx"
    yield "odd", "{room}-{room}.a\na%2Fb"
    yield "wrong", "chat_{room\nx"


def tokens():
    yield "token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjcsIm5hbWUiOiJBbm4iLCJleHAiOjQwNzA5MDg4MDB9.RyFBV_CFwsarwV9AK7oEekykYjsLP7_Tq596o_HQEyI"
    yield "claims", '{"sub": 7, "name": "Ann", "exp": 4070908800, "nbf": 1, "is_staff": true, "aud": ["a"]}'
    yield "dates", '{"sub": "a", "exp": 4.0709088e9, "nbf": -1}'
    yield "header", '{"alg": "HS256", "typ": "at+jwt", "kid": "a", "b64": true}'
    yield "none", '{"alg": "none", "crit": ["x"]}'
    yield "jwks", json.dumps({"keys": [{"kty": "oct", "kid": "a", "alg": "HS256", "k": base64.urlsafe_b64encode(b"x" * 40).decode().rstrip("=")},
                                       {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}, {"kty": "OKP", "crv": "Ed25519", "x": "2f09oS8eInGkITfkh5OUmU1l1wIjmg0RZc2YrSmkCHE"}]})


def tls():
    hello = bytes.fromhex("16030100") + bytes([0x2F]) + bytes.fromhex("0100002b0303") + bytes(32) + bytes.fromhex("000004130100ff0100")
    yield "hello", hello + bytes([0, 0, 0, 0])
    yield "hello-cut", hello + bytes([0, 3, 0, 0])
    yield "http", b"GET / HTTP/1.1\r\n\r\n" + bytes(4)
    for version, choice in (("13", 1), ("12", 3)):
        yield f"data-{version}", b"some bytes of a client" + bytes([choice, 0, 0, 0])
        yield f"data-cut-{version}", b"some bytes of a client" + bytes([choice, 3, 0, 0])
        yield f"spoiled-{version}", b"some bytes of a client" + bytes([choice, 0, 9, 1])


def upstream_http1():
    for name, text in {
        "length": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text-plain\r\n\r\nhello",
        "chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n5;ext=1\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
        "close": "HTTP/1.0 200 Fine\r\n\r\nuntil the end", "interim": "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "both": "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "switch": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "redirect": "HTTP/1.1 302 Found\r\nLocation: http://localhost/x\r\nSet-Cookie: a=b; Path=/; Domain=x\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
        "short": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "accel": "HTTP/1.1 200 OK\r\nX-Accel-Redirect: /x\r\nContent-Length: 0\r\n\r\n",
        "twice": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "folded": "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    }.items():
        yield name, text.encode() + b"\0\0"
        yield name + "-head", text.encode() + b"\1\3"
        yield name + "-post", text.encode() + b"\2\1"


def upstream_http2():
    headers = b"\x88\x5c\x015\x00\x03x-a\x01b"
    answer = h2(1, 4, 1, headers) + h2(0, 1, 1, b"hello")
    for name, text in {
        "answer": answer, "ping": h2(6, 0, 0, bytes(8)) + h2(8, 0, 0, b"\0\0\1\0") + answer, "reset": h2(1, 4, 1, b"\x88") + h2(3, 0, 1, b"\0\0\0\x08"),
        "goaway": h2(7, 0, 0, bytes(8)), "trailers": h2(1, 4, 1, b"\x88") + h2(0, 0, 1, b"x") + h2(1, 5, 1, b"\0\x03x-t\x011"),
        "continuation": h2(1, 0, 1, b"\x88") + h2(9, 4, 1, b"\0\x03x-a\x01b") + h2(0, 1, 1, b""), "interim": h2(1, 4, 1, b"\x08\x03103") + answer,
        "push": h2(5, 4, 1, b"\0\0\0\2\x82"), "length": h2(1, 4, 1, b"\x88\x5c\x019") + h2(0, 1, 1, b"short"), "padded": h2(0, 9, 1, b"\x03abc\0\0\0"),
    }.items():
        yield name, text + b"\0"
        yield name + "-cut", text + b"\2"


def gateway():
    host = "Host: localhost\r\n"
    yield "get", f"GET /hello/bob/?a=b HTTP/1.1\r\n{host}Cookie: sessionid=abc\r\n\r\n"
    yield "form", f"POST /form/ HTTP/1.1\r\n{host}Content-Type: application/x-www-form-urlencoded\r\nOrigin: http://localhost\r\n\r\nusername=a&password=b&csrfmiddlewaretoken=c"
    yield "preflight", f"OPTIONS /api/7 HTTP/1.1\r\n{host}Origin: https://app.example.com\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    yield "forwarded", f"GET /old/x HTTP/1.1\r\n{host}X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: www.example.com:81\r\nX-Forwarded-Proto: https\r\n\r\n"
    yield "absolute", "GET http://www.example.com/hello/x HTTP/1.1\r\nHost: other\r\n\r\n"
    yield "socket", f"GET /ws/lobby/ HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    yield "encoded", f"HEAD /hello%2Fbob/%2e%2e/ HTTP/1.1\r\n{host}Accept: application/json\r\n\r\n"


def server_api():
    yield "send", 'POST /groups/news HTTP/1.1\r\nContent-Type: application/json\r\nIdempotency-Key: a\r\n\r\n{"type": "a.b"}'
    yield "batch", 'POST /batch HTTP/1.1\r\n\r\n{"events": [{"group": "a", "event": {"type": "x"}}, {"connection": "1-2", "event": {}}]}'
    yield "list", "GET /connections?limit=5&user=a%20b&group=x&cursor=1-2 HTTP/1.1\r\n\r\n"
    yield "close", "DELETE /connections/0000000000000001-2?code=4000&reason=bye HTTP/1.1\r\n\r\n"
    yield "user", 'POST /users/a/b/disconnect HTTP/1.1\r\n\r\n{"code": 4001, "reason": "x"}'
    yield "info", "GET /info HTTP/1.1\r\n\r\n"
    yield "shop", "GET /groups/news_a HTTP/1.1\r\nAuthorization: Bearer b-token-of-at-least-32-characters\r\n\r\n"


TARGETS = (
    backend_response, channels_redis, config, cookies, deflate, django_pickle, django_signing, encodings, events, forwarded,
    frames, gateway, group_patterns, handshake, head_scanner, layer_messages, proxy_protocol, ranges, readings, routing,
    server_api, tls, tokens, upstream_http1, upstream_http2,
)  # fmt: skip


def main():
    for target in TARGETS:
        directory = CORPUS / target.__name__
        directory.mkdir(parents=True, exist_ok=True)
        count = 0
        for name, data in target():
            (directory / f"seed-{name}").write_bytes(data.encode() if isinstance(data, str) else data)
            count += 1
        print(f"{target.__name__}: {count}")


if __name__ == "__main__":
    main()
