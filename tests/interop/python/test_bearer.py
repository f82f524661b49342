"""Bearer tokens: made by another library with real keys, sent in every supported way, and corrupted in many."""

import base64
import hashlib
import hmac
import json
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from urllib.parse import quote

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kit.deadline import DEADLINE, Late
from kit.http2 import Client, StreamSocket
from kit.login_case import CHECK, MOMENT, gateway
from kit.peer import Peer, refusal
from kit.server import Server, binary
from kit.visitor import PAGES, Visitor, add_user

CONFIG = """
[log]
level = "debug"

[session]
store = "memory"
check_interval = "500ms"

[templates]
dir = "pages"

[auth.bearer]
leeway = "0s"
{bearer}

[http]
middleware = ["hosts", "auth"]

[[http.route]]
path = "/who/"
view = "template"
options = {{ template = "who.html" }}

[[http.route]]
path = "/query/"
view = "template"
token_in_query = true
options = {{ template = "who.html" }}

[[http.route]]
path = "/members/"
view = "respond"
middleware = ["hosts", "auth", "login_required"]

[websocket]
middleware = ["hosts", "origin", "auth"]

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/spoken/{{room:slug}}/"
consumer = "chat"
subprotocols = ["v2.chat", "v1.chat"]
options = {{ group = "spoken_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/query/{{room:slug}}/"
consumer = "chat"
token_in_query = true
options = {{ group = "query_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "auth", "login_required"]
"""

SECRET = "0123456789abcdef" * 4
HS = f'key = "{SECRET}"'


def claims(**changes):
    """Returns the claims of a good token; `None` leaves one out."""
    found = {"sub": "7", "name": "anna", "exp": int(time.time()) + 600, **changes}
    return {name: value for name, value in found.items() if value is not None}


def token(key=SECRET, algorithm="HS256", headers=None, **changes):
    return jwt.encode(claims(**changes), key, algorithm, headers)


def part(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header, payload, key=SECRET, digest=hashlib.sha256):
    """Signs what a library would refuse to sign."""
    message = f"{part(header)}.{part(payload)}"
    mac = hmac.new(key if isinstance(key, bytes) else key.encode(), message.encode(), digest)
    return f"{message}.{part(mac.digest())}"


def public(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(key, algorithm, **more):
    """Returns a public key as a JWK."""
    return {**jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True), **more}


def bearer(value):
    return {"Authorization": f"Bearer {value}"}


class Keys:
    """Made once: RSA keys take their time."""

    RSA = rsa.generate_private_key(65537, 2048)
    OTHER_RSA = rsa.generate_private_key(65537, 2048)
    EC = ec.generate_private_key(ec.SECP256R1())
    OTHER_EC = ec.generate_private_key(ec.SECP256R1())
    EC384 = ec.generate_private_key(ec.SECP384R1())
    ED = ed25519.Ed25519PrivateKey.generate()
    OTHER_ED = ed25519.Ed25519PrivateKey.generate()


class Bearer(unittest.TestCase):
    @classmethod
    def gateway(cls, text=HS, files=None):
        return Server(CONFIG.format(bearer=text), files={**PAGES, **(files or {})})

    def start(self, text=HS, files=None):
        return self.enterContext(self.gateway(text, files))

    def who(self, server, value, path="/who/"):
        status, _, body = server.request(path, headers=bearer(value))
        self.assertEqual(status, 200, body)
        return body.decode()

    def takes(self, server, value):
        """Holds that a page and a handshake know who has the token."""
        self.assertEqual(self.who(server, value).split()[0], "anna")
        with Peer(server, "/ws/chat/taken/", additional_headers=bearer(value)) as peer:
            self.assertEqual(peer.next("chat.join")["user"], "anna")

    def refuses(self, server, value):
        """Holds that a token is 401 with a challenge, on a page that is for all and wherever it is brought."""
        status, fields, body = server.request("/who/", headers=bearer(value))
        self.assertEqual(status, 401, body)
        self.assertRegex(fields["WWW-Authenticate"], r"^Bearer\b")
        self.assertNotIn("Set-Cookie", fields)
        answer = refusal(server, "/ws/chat/refused/", additional_headers=bearer(value))
        self.assertEqual(answer.status_code, 401)
        self.assertRegex(answer.headers["WWW-Authenticate"], r"^Bearer\b")

    def peer(self, server, path, **options):
        return self.enterContext(Peer(server, path, **options))


class Shared(Bearer):
    """With one server for all tests."""

    bearer = HS
    files = {}

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(cls.gateway(cls.bearer, cls.files))


class Algorithms(Bearer):
    def check(self, server, good, *bad):
        self.takes(server, good)
        for value in bad:
            self.refuses(server, value)

    def test_secrets_of_every_length_of_hash(self):
        for algorithm in ("HS256", "HS384", "HS512"):
            with self.subTest(algorithm=algorithm), self.gateway(f'algorithms = ["{algorithm}"]\n{HS}') as server:
                others = [token(algorithm=other) for other in ("HS256", "HS384", "HS512") if other != algorithm]
                self.check(server, token(algorithm=algorithm), token("x" * 64, algorithm), *others)

    def test_rsa_keys(self):
        for algorithm in ("RS256", "RS384", "RS512"):
            with self.subTest(algorithm=algorithm):
                text = f'algorithms = ["{algorithm}"]\nkey_file = "public.pem"'
                with self.gateway(text, {"public.pem": public(Keys.RSA)}) as server:
                    others = [token(Keys.RSA, other) for other in ("RS256", "RS512", "PS256") if other != algorithm]
                    self.check(server, token(Keys.RSA, algorithm), token(Keys.OTHER_RSA, algorithm), *others)

    def test_elliptic_curves(self):
        for algorithm, key, other in (("ES256", Keys.EC, Keys.OTHER_EC), ("EdDSA", Keys.ED, Keys.OTHER_ED)):
            with self.subTest(algorithm=algorithm):
                text = f'algorithms = ["{algorithm}"]\nkey = """{public(key)}"""'
                with self.gateway(text) as server:
                    self.check(server, token(key, algorithm), token(other, algorithm), token(Keys.RSA, "RS256"))
        with self.gateway('algorithms = ["ES384"]\nkey_file = "public.pem"', {"public.pem": public(Keys.EC384)}) as server:
            self.check(server, token(Keys.EC384, "ES384"), token(Keys.EC, "ES256"))

    def test_several_algorithms_of_one_family(self):
        server = self.start(f'algorithms = ["HS256", "HS512"]\n{HS}')
        for algorithm in ("HS256", "HS512"):
            self.takes(server, token(algorithm=algorithm))
        self.refuses(server, token(algorithm="HS384"))

    def test_a_public_key_is_never_taken_for_a_secret(self):
        pem = public(Keys.RSA)
        server = self.start('algorithms = ["RS256"]\nkey_file = "public.pem"', {"public.pem": pem})
        self.takes(server, token(Keys.RSA, "RS256"))
        der = Keys.RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in (pem, pem.strip(), pem.replace("\n", "\r\n"), der, ""):
            for algorithm in ("HS256", "RS256", "hs256"):
                self.refuses(server, signed({"alg": algorithm, "typ": "JWT"}, claims(), key))

    def test_a_signature_of_an_elliptic_curve_in_another_form_is_refused(self):
        server = self.start(f'algorithms = ["ES256"]\nkey = """{public(Keys.EC)}"""')
        good = token(Keys.EC, "ES256")
        message, _, signature = good.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        der = encode_dss_signature(r, s)
        self.assertEqual(decode_dss_signature(der), (r, s))
        self.takes(server, good)
        for spoiled in (der, bytes(64), raw[:32] + bytes(32), bytes(32) + raw[32:], raw + b"\0", raw[:63], b"", b"\xff" * 64):
            self.refuses(server, f"{message}.{part(spoiled)}")


class Jwks(Bearer):
    ALGORITHMS = 'algorithms = ["RS256", "ES256", "EdDSA"]\njwks_file = "keys.json"'

    def keys(self, *keys):
        return {"keys.json": json.dumps({"keys": list(keys)})}

    def test_the_kid_says_which_key(self):
        unusable = [
            {"kty": "unknown", "kid": "unknown"},
            {"kty": "RSA", "kid": "broken"},
            jwk(Keys.OTHER_ED, "EdDSA", kid="enc", use="enc"),
        ]
        keys = [jwk(Keys.RSA, "RS256", kid="r"), jwk(Keys.EC, "ES256", kid="e"), jwk(Keys.ED, "EdDSA", kid="d")]
        server = self.start(self.ALGORITHMS, self.keys(*unusable, *keys))
        made = (("r", Keys.RSA, "RS256"), ("e", Keys.EC, "ES256"), ("d", Keys.ED, "EdDSA"))
        for kid, key, algorithm in made:
            with self.subTest(kid=kid):
                self.takes(server, token(key, algorithm, {"kid": kid}))
                self.takes(server, token(key, algorithm))  # one key alone fits the algorithm
                for wrong in ("r", "e", "d", "none", "", "unknown", "broken", "../keys.json", "r' OR '1'='1"):
                    if wrong != kid:
                        self.refuses(server, token(key, algorithm, {"kid": wrong}))
        self.refuses(server, token(Keys.OTHER_RSA, "RS256", {"kid": "r"}))
        self.refuses(server, token(Keys.OTHER_ED, "EdDSA", {"kid": "enc"}))

    def test_without_a_kid_one_key_alone_has_to_fit(self):
        keys = [jwk(Keys.RSA, "RS256", kid="one"), jwk(Keys.OTHER_RSA, "RS256", kid="two")]
        server = self.start(self.ALGORITHMS, self.keys(*keys))
        self.takes(server, token(Keys.RSA, "RS256", {"kid": "one"}))
        self.takes(server, token(Keys.OTHER_RSA, "RS256", {"kid": "two"}))
        self.refuses(server, token(Keys.RSA, "RS256", {"kid": "two"}))
        self.refuses(server, token(Keys.RSA, "RS256"))

    def test_a_key_is_for_the_algorithm_it_names(self):
        server = self.start(
            'algorithms = ["RS256", "RS512"]\njwks_file = "keys.json"', self.keys(jwk(Keys.RSA, "RS256", kid="r", alg="RS512"))
        )
        self.takes(server, token(Keys.RSA, "RS512", {"kid": "r"}))
        self.refuses(server, token(Keys.RSA, "RS256", {"kid": "r"}))

    def test_a_public_key_of_the_set_is_never_taken_for_a_secret(self):
        secret = {"kty": "oct", "kid": "s", "k": part(SECRET.encode())}
        text = 'algorithms = ["RS256", "HS256"]\njwks_file = "keys.json"'
        server = self.start(text, self.keys(jwk(Keys.RSA, "RS256", kid="r"), secret))
        self.takes(server, token(headers={"kid": "s"}))
        self.takes(server, token(Keys.RSA, "RS256", {"kid": "r"}))
        pem, number = public(Keys.RSA), Keys.RSA.public_key().public_numbers().n.to_bytes(256, "big")
        for key in (pem, pem.strip(), number, json.dumps(jwk(Keys.RSA, "RS256"))):
            self.refuses(server, signed({"alg": "HS256", "kid": "r"}, claims(), key))
        self.refuses(server, token(headers={"kid": "r"}))

    def test_a_reload_reads_the_set_again(self):
        server = self.start(self.ALGORITHMS, self.keys(jwk(Keys.RSA, "RS256", kid="old")))
        old, new = token(Keys.RSA, "RS256", {"kid": "old"}), token(Keys.OTHER_RSA, "RS256", {"kid": "new"})
        self.takes(server, old)
        self.refuses(server, new)
        (server.directory / "keys.json").write_text(self.keys(jwk(Keys.OTHER_RSA, "RS256", kid="new"))["keys.json"])
        server.reload(CONFIG.format(bearer=self.ALGORITHMS))
        self.takes(server, new)
        self.refuses(server, old)


class Required(Shared):
    """An issuer signs other tokens with the same key; only access tokens are meant for us."""

    bearer = f'{HS}\nrequired = {{ token_type = "access", level = 2, verified = true, "https://x.test/y" = "chat" }}'
    GOOD = {"token_type": "access", "level": 2, "verified": True, "https://x.test/y": "chat"}

    def test_tokens_with_all_of_them(self):
        self.takes(self.server, token(**self.GOOD))
        for more in (
            {"token_type": ["id", "access"]},
            {"level": 2.0},
            {"level": [1, 2]},
            {"verified": [True]},
            {"https://x.test/y": ["mail", "chat"]},
        ):
            with self.subTest(more=more):
                self.takes(self.server, token(**{**self.GOOD, **more}))

    def test_tokens_without_one_of_them_or_with_another_value(self):
        bad = {
            "token_type": (None, "refresh", "Access", "access ", "access refresh", "", 1, [], ["refresh"], [["access"]], {}),
            "level": (None, 1, 3, 2.5, "2", [], [1], [[2]], True, {"2": 2}),
            "verified": (None, False, 1, "true", [], [False], {"verified": True}),
            "https://x.test/y": (None, "", "mail", "cha", ["cha"]),
        }
        for name, values in bad.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.refuses(self.server, token(**{**self.GOOD, name: value}))
            with self.subTest(name=name, value="null"):
                self.refuses(self.server, signed({"alg": "HS256"}, {**claims(), **self.GOOD, name: None}))

    def test_the_challenge_is_invalid_token_and_the_log_names_the_claim_alone(self):
        value = token(**{**self.GOOD, "token_type": "an-odd-kind"})
        status, fields, body = self.server.request("/who/", headers=bearer(value))
        self.assertEqual((status, fields["WWW-Authenticate"]), (401, 'Bearer error="invalid_token"'))
        self.assertNotIn(b"token_type", body)
        self.server.wait_for_log(r"token_type")
        self.assertNotIn("an-odd-kind", self.server.log())
        self.assertNotIn(value, self.server.log())


class Refused(Shared):
    bearer = f'{HS}\nissuer = "https://issuer.test/"\naudience = "oneport"'
    MEANT = {"iss": "https://issuer.test/", "aud": "oneport"}

    def good(self, **changes):
        return token(**{**self.MEANT, **changes})

    def test_the_good_one_is_taken(self):
        self.takes(self.server, self.good())
        self.takes(self.server, self.good(aud=["another", "oneport"], nbf=int(time.time()) - 5, iat=int(time.time())))
        self.takes(self.server, self.good(exp=time.time() + 60.5))

    def test_claims_that_are_not_good(self):
        now = int(time.time())
        for changes in (
            {"exp": now - 2},
            {"exp": 0},
            {"exp": None},
            {"nbf": now + 60},
            {"iss": None},
            {"iss": "https://issuer.test"},
            {"iss": "https://evil.test/"},
            {"aud": None},
            {"aud": "another"},
            {"aud": ["another"]},
            {"aud": []},
            {"aud": "oneport2"},
            {"sub": None},
            {"sub": ""},
            {"sub": "a" * 257},
            {"sub": "a\nb"},
        ):
            with self.subTest(changes=changes):
                self.refuses(self.server, self.good(**changes))

    def test_claims_of_another_kind(self):
        whole = {**claims(), **self.MEANT}
        kinds = (None, True, "1", "", [], {}, [1], -1, 1e300, 1.7976931348623157e308, 2**70, "9999999999")
        for name in ("exp", "nbf"):
            for value in kinds:
                with self.subTest(name=name, value=value):
                    if name == "nbf" and value in (None,):
                        continue
                    found = self.server.request("/who/", headers=bearer(signed({"alg": "HS256"}, {**whole, name: value})))
                    self.assertEqual(found[0], 401, found)
        for name, values in (
            ("iss", (None, 1, [], ["https://issuer.test/"], {})),
            ("aud", (None, 1, {}, [1], [["oneport"]])),
            ("sub", (None, True, 1.5, [], {})),
        ):
            for value in values:
                with self.subTest(name=name, value=value):
                    self.refuses(self.server, signed({"alg": "HS256"}, {**whole, name: value}))
        for payload in ([], "text", 1, None, b"{", b"", b"\xff\xfe", b"[" * 3000, json.dumps(whole).encode()[:-1]):
            with self.subTest(payload=str(payload)[:20]):
                self.refuses(self.server, signed({"alg": "HS256"}, payload))

    def test_a_name_of_another_kind_is_the_id(self):
        for name in (None, 1, "", "a\nb", ["anna"], "n" * 300):
            with self.subTest(name=name):
                self.assertEqual(self.who(self.server, self.good(name=name)).split()[:2], ["7", "7"])
        self.assertEqual(self.who(self.server, self.good(sub="x", name="<b>")).split()[1], "x")
        self.assertNotIn("<b>", self.who(self.server, self.good(name="<b>")))

    def test_only_a_json_true_is_staff(self):
        for value, staff in (
            (True, "True"),
            (False, "False"),
            (1, "False"),
            ("true", "False"),
            ([True], "False"),
            (None, "False"),
        ):
            with self.subTest(value=value):
                self.assertEqual(self.who(self.server, self.good(is_staff=value)).split()[2], staff)

    def test_algorithms_that_are_none_or_other(self):
        whole = {**claims(), **self.MEANT}
        for algorithm in (
            "none",
            "None",
            "NONE",
            "nOnE",
            "",
            "HS384",
            "HS512",
            "hs256",
            "RS256",
            "EdDSA",
            "HS256 ",
            "HS2560",
            None,
            1,
            [],
            ["HS256"],
        ):
            with self.subTest(algorithm=algorithm):
                header = {"alg": algorithm, "typ": "JWT"}
                self.refuses(self.server, signed(header, whole))
                self.refuses(self.server, f"{part(header)}.{part(whole)}.")
                self.refuses(self.server, f"{part(header)}.{part(whole)}")
        for header in (
            {},
            [],
            "HS256",
            None,
            {"alg": "HS256", "crit": ["exp"], "exp": 1},
            {"alg": "HS256", "crit": []},
            {"alg": "HS256", "crit": None},
            {"alg": "HS256", "crit": "b64"},
            {"alg": "HS256", "crit": ["b64"], "b64": True},
            {"alg": "HS256", "crit": ["alg"]},
            {"alg": "HS256", "b64": False},
            {"alg": "HS256", "b64": None},
            {"alg": "HS256", "typ": "logout+jwt"},
            {"alg": "HS256", "typ": "application/secevent+jwt"},
            {"alg": "HS256", "typ": 1},
            ["HS256", None, None],
            b"{",
            b"[" * 3000,
        ):
            with self.subTest(header=str(header)[:30]):
                self.refuses(self.server, signed(header, whole))

    def test_a_header_that_only_describes_the_token(self):
        for more in ({"typ": "JWT"}, {"typ": "at+jwt"}, {"typ": "application/at+jwt"}, {"b64": True}, {"cty": "x", "x": 1}):
            with self.subTest(more=more):
                self.takes(self.server, signed({"alg": "HS256", **more}, {**claims(), **self.MEANT}))

    def test_a_key_that_the_token_brings_along_is_not_looked_at(self):
        own = {"kty": "oct", "k": part(b"x" * 64)}
        for more in ({"jwk": own}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}, {"kid": "/dev/null"}):
            with self.subTest(more=more):
                self.refuses(self.server, signed({"alg": "HS256", **more}, {**claims(), **self.MEANT}, "x" * 64))
        self.refuses(self.server, signed({"alg": "HS256"}, {**claims(), **self.MEANT}, ""))

    def test_a_token_that_breaks_off_anywhere(self):
        good = self.good()
        dots = [at for at, character in enumerate(good) if character == "."]
        places = {*range(1, 8), *range(8, len(good), 7), *range(len(good) - 6, len(good)), *dots, *(dot + 1 for dot in dots)}
        for at in sorted(places):
            with self.subTest(at=at):
                self.refuses(self.server, good[:at])

    def test_a_token_with_any_of_its_letters_changed(self):
        good = self.good()
        for at in range(0, len(good) - 1, 5):  # the last letter holds bits that say nothing
            if good[at] == ".":
                continue
            with self.subTest(at=at):
                self.refuses(self.server, good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :])

    def test_what_is_no_token(self):
        good = self.good()
        head, body, signature = good.split(".")
        for value in (
            "x",
            ".",
            "..",
            "...",
            "a.b.c",
            "=.=.=",
            f"{good}.",
            f".{good}",
            f"{good}.{signature}",
            f"{head}..{signature}",
            f"..{signature}",
            f"{head}.{body}=.{signature}",
            f"{good}=",
            f"{good},",
            f"{good}%20",
            f"{head} .{body}.{signature}",
            f'"{good}"',
            "null",
            "é☕".encode().decode("latin-1"),
            "a" * 9000,
            f"{good}{'A' * 8192}",
        ):
            with self.subTest(value=value[:30]):
                status, fields, _ = self.server.request("/who/", headers={"Authorization": f"Bearer {value}".encode("latin-1")})
                self.assertEqual(status, 401)
                self.assertRegex(fields["WWW-Authenticate"], r"^Bearer\b")

    def test_the_header_field_itself(self):
        good = self.good()
        for field, status in (
            (f"Bearer {good}", 200),
            (f"bearer {good}", 200),
            (f"BEARER  {good} ", 200),
            ("Bearer", 401),
            ("Bearer ", 401),
            (f"Bearer {good} {good}", 401),
            (f"Bearer {good}, Bearer {good}", 401),
        ):
            with self.subTest(field=field[:20]):
                found, _, body = self.server.request("/who/", headers={"Authorization": field})
                self.assertEqual(found, status)
                self.assertEqual(body.startswith(b"anna"), status == 200)
        # Anything but a bearer token is ignored.
        for field in ("Basic YW5uYTp4", good, f"Token {good}", "Bearerx y", ""):
            with self.subTest(field=field[:20]):
                self.assertEqual(self.server.request("/who/", headers={"Authorization": field})[2], b"nobody")
        two = Visitor(self.server).request("/who/", headers={"Authorization": [f"Bearer {good}", f"Bearer {good}"]})
        self.assertEqual(two.status, 401)

    def test_a_program_is_told_in_json(self):
        for headers in (bearer("x"), {**bearer("x"), "Accept": "application/json"}):
            status, fields, body = self.server.request("/members/", headers=headers)
            self.assertEqual(status, 401)
        self.assertEqual(json.loads(body)["error"]["status"], 401)
        self.assertNotIn("Location", fields)


class Carried(Shared):
    def test_as_a_subprotocol(self):
        peer = self.peer(self.server, "/ws/chat/sub/", subprotocols=["bearer", token()])
        self.assertEqual(peer.socket.subprotocol, "bearer")
        self.assertEqual(peer.next("chat.join")["user"], "anna")

    def test_beside_the_routes_own_subprotocols(self):
        value = token()
        for offer, chosen in (
            (["bearer", value, "v1.chat"], "v1.chat"),
            (["v1.chat", "bearer", value], "v1.chat"),
            (["v1.chat", "v2.chat", "bearer", value], "v1.chat"),
            (["unknown", "bearer", value], "bearer"),
            (["bearer", value], "bearer"),
        ):
            with self.subTest(offer=[word for word in offer if word != value]):
                with Peer(self.server, "/ws/spoken/sub/", subprotocols=offer) as peer:
                    self.assertEqual(peer.socket.subprotocol, chosen)
                    self.assertEqual(peer.next("chat.join")["user"], "anna")

    def test_a_word_alone_brings_nothing(self):
        for offer in (["bearer"], [token()], ["v1.chat", "bearer"], [token(), "bearer"]):
            with self.subTest(offer=offer), Peer(self.server, "/ws/spoken/alone/", subprotocols=offer) as peer:
                self.assertIsNone(peer.next("chat.join")["user"])
                self.assertIn(peer.socket.subprotocol, (None, "bearer", "v1.chat"))

    def test_a_bad_one_as_a_subprotocol_is_401(self):
        good = token()
        for bad in (token("x" * 64), good[:-2], "x", "v1.chat", token(exp=1)):
            answer = refusal(self.server, "/ws/spoken/bad/", subprotocols=["bearer", bad])
            self.assertEqual(answer.status_code, 401)
            self.assertRegex(answer.headers["WWW-Authenticate"], r"^Bearer\b")
            self.assertNotIn("Sec-WebSocket-Protocol", answer.headers)

    def test_in_the_query_only_where_the_route_says_so(self):
        good, bad = token(), token("x" * 64)
        for value in (good, bad):
            self.assertEqual(self.server.request(f"/who/?access_token={value}")[2], b"nobody")
            with Peer(self.server, f"/ws/chat/query/?access_token={value}") as peer:
                self.assertIsNone(peer.next("chat.join")["user"])
        self.assertTrue(self.server.request(f"/query/?a=b&access_token={good}")[2].startswith(b"anna"))
        escaped = "".join(f"%{ord(character):02x}" for character in good)
        self.assertTrue(self.server.request(f"/query/?access_token={escaped}")[2].startswith(b"anna"))
        with Peer(self.server, f"/ws/query/query/?access_token={good}") as peer:
            self.assertEqual(peer.next("chat.join")["user"], "anna")
        for value in (bad, "", "%00", "%ff", quote(f"{good} "), "a" * 5000):
            with self.subTest(value=value[:20]):
                status, fields, _ = self.server.request(f"/query/?access_token={value}")
                self.assertEqual(status, 401)
                self.assertRegex(fields["WWW-Authenticate"], r"^Bearer\b")
                self.assertEqual(refusal(self.server, f"/ws/query/query/?access_token={value}").status_code, 401)

    def test_the_header_field_comes_first(self):
        good, other = token(), token(name="berta")
        self.assertTrue(self.who(self.server, good, f"/query/?access_token={other}").startswith("anna"))
        self.assertEqual(self.server.request(f"/query/?access_token={good}", headers=bearer("x"))[0], 401)
        with Peer(self.server, "/ws/chat/first/", additional_headers=bearer(good), subprotocols=["bearer", other]) as peer:
            self.assertEqual(peer.next("chat.join")["user"], "anna")
            self.assertIn(peer.socket.subprotocol, (None, "bearer"))
        answer = refusal(self.server, "/ws/chat/first/", additional_headers=bearer("x"), subprotocols=["bearer", good])
        self.assertEqual(answer.status_code, 401)

    def test_over_http_2(self):
        with Client(self.server) as client:
            head = [(":method", "GET"), (":scheme", "http"), (":path", "/who/"), (":authority", "localhost")]
            found = []
            for value in (token(), token()[:-4]):
                status, fields, body = client.answer(
                    client.begin([*head, ("authorization", f"Bearer {value}")], end_stream=True)
                )
                found.append((status, body.split()[0], fields.get("www-authenticate", "")[:6]))
            self.assertEqual(found[0], (200, b"anna", ""))
            self.assertEqual(found[1][::2], (401, "Bearer"))
            socket = StreamSocket(client, "/ws/chat/h2/", changes={"sec-websocket-protocol": f"bearer, {token()}"})
            self.assertEqual(socket.fields["sec-websocket-protocol"], "bearer")
            self.assertEqual(json.loads(socket.receive())["user"], "anna")

    def test_members_are_let_in(self):
        self.assertEqual(self.server.request("/members/", headers=bearer(token()))[0], 200)
        self.assertEqual(self.server.request("/members/")[0], 302)
        self.assertEqual(refusal(self.server, "/ws/members/").status_code, 403)
        peer = self.peer(self.server, "/ws/members/", subprotocols=["bearer", token()])
        peer.send("in")
        self.assertEqual(peer.receive(), "in")

    def test_an_answer_says_that_it_depends_on_the_token(self):
        vary = Visitor(self.server).request("/who/").headers.get_all("Vary", [])
        self.assertIn("authorization", ",".join(vary).lower())

    def test_a_page_of_another_origin_has_nothing_of_a_token(self):
        answer = refusal(self.server, "/ws/chat/far/", origin="http://evil.test", subprotocols=["bearer", token()])
        self.assertEqual(answer.status_code, 403)


class BesideASession(Bearer):
    def test_the_token_decides_before_the_session(self):
        server = self.enterContext(gateway(session=f"\n[auth.bearer]\n{HS}"))
        add_user(server, "berta")
        visitor = Visitor(server).log_in("berta")
        self.assertEqual(visitor.name(), "berta")
        self.assertEqual(visitor.name(headers=bearer(token())), "anna")
        self.assertEqual(visitor.request("/who/", headers=bearer(token("x" * 64))).status, 401)
        self.assertEqual(visitor.request("/who/", headers=bearer("")).status, 401)
        self.assertEqual(visitor.name(headers={"Authorization": "Basic x"}), "berta")
        self.assertEqual(visitor.name(), "berta")

    def test_without_the_section_there_are_no_tokens(self):
        server = self.enterContext(gateway())
        for value in (token(), "x"):
            self.assertIsNone(Visitor(server).name(headers=bearer(value)))


class Life(Bearer):
    def test_a_socket_ends_with_its_token_and_no_other_does(self):
        server = self.start()
        expires = int(time.time()) + 3
        short = token(exp=expires)
        live = [
            self.peer(server, "/ws/chat/life/", additional_headers=bearer(short)),
            self.peer(server, "/ws/members/", subprotocols=["bearer", short]),
            self.peer(server, f"/ws/query/life/?access_token={short}"),
        ]
        stays = [self.peer(server, "/ws/chat/stay/", additional_headers=bearer(token())), self.peer(server, "/ws/chat/stay/")]
        for peer in live:
            self.assertEqual(peer.closed(), (4401, "the login has ended"))
            late = time.time() - expires
            self.assertTrue(0 <= late < CHECK + MOMENT, late)
        self.refuses(server, short)
        for peer in stays:
            peer.say({"type": "who"})
            peer.next("chat.who")
        line = server.wait_for_log(r"websocket .*/ws/members/.*").group()
        self.assertRegex(line, r"code=4401")
        self.assertRegex(line, r"cause=\W*session_ended")

    def test_the_leeway_counts_for_sockets_too(self):
        server = self.start()
        server.reload(CONFIG.format(bearer=HS).replace('leeway = "0s"', 'leeway = "3s"'))
        expired = int(time.time()) - 1
        value = token(exp=expired)
        self.takes(server, value)
        self.takes(server, token(nbf=int(time.time()) + 2))
        peer = self.peer(server, "/ws/members/", additional_headers=bearer(value))
        self.assertEqual(peer.closed()[0], 4401)
        late = time.time() - (expired + 3)
        self.assertTrue(0 <= late < CHECK + MOMENT, late)
        self.refuses(server, value)

    def test_a_token_for_the_far_future_ends_nothing(self):
        server = self.start()
        peer = self.peer(server, "/ws/members/", additional_headers=bearer(token(exp=253_402_300_799)))
        with self.assertRaises(Late):
            peer.receive(2 * CHECK)


class Log(Bearer):
    def test_no_token_is_ever_in_the_log(self):
        server = self.start()
        good, bad, late = token(), token("x" * 64), token(exp=1)
        for value in (good, bad, late, good[:-3]):
            server.request("/who/", headers=bearer(value))
            server.request(f"/query/?access_token={value}")
            server.request(f"/who/?access_token={value}")
            for path, options in (
                ("/ws/chat/log/", {"additional_headers": bearer(value)}),
                ("/ws/chat/log/", {"subprotocols": ["bearer", value]}),
                ("/ws/chat/log/", {"subprotocols": [value, "bearer"]}),
                (f"/ws/query/log/?access_token={value}", {}),
                (f"/ws/chat/log/?access_token={value}", {}),
            ):
                try:
                    Peer(server, path, **options).__exit__()
                except Exception as refused:
                    self.assertEqual(refused.response.status_code, 401)
        server.request("/health/?last")
        server.wait_for_log("/ws/query/log/")
        log = server.log()
        self.assertIn("status=401", log)
        for value in (good, bad, late):
            for piece in value.split(".")[1:]:
                self.assertNotIn(piece, log)
        self.assertNotIn(SECRET, log)


class Configuration(unittest.TestCase):
    def check(self, text, files=None):
        """Returns the output of `oneport check` for a section, which must have a Problem."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        for name, content in {**PAGES, **(files or {})}.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
        config = directory / "oneport.toml"
        config.write_text(CONFIG.format(bearer=text), encoding="utf-8")
        done = subprocess.run(
            [binary(), "check", "--config", config], capture_output=True, text=True, timeout=DEADLINE, cwd=directory
        )
        self.assertEqual(done.returncode, 78, done)
        self.assertIn("auth.bearer", done.stderr)
        return done.stderr

    def test_keys_that_would_be_unsafe_are_problems(self):
        private = Keys.RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        short = public(rsa.generate_private_key(65537, 1024))
        for text, files in (
            ('key = "short"', {}),
            (f'algorithms = ["HS512"]\nkey = "{SECRET[:63]}"', {}),
            ('key = ""', {}),
            ('key_file = "k"', {"k": public(Keys.RSA)}),
            ('algorithms = ["RS256"]\nkey_file = "k"', {"k": private}),
            ('algorithms = ["RS256"]\nkey_file = "k"', {"k": short}),
            ('algorithms = ["RS256"]\nkey_file = "k"', {"k": public(Keys.EC)}),
            ('algorithms = ["ES256"]\nkey_file = "k"', {"k": public(Keys.EC384)}),
            ('algorithms = ["EdDSA"]\nkey_file = "k"', {"k": public(Keys.EC)}),
            ('algorithms = ["RS256"]\nkey_file = "k"', {"k": "nonsense"}),
            ('algorithms = ["RS256"]\nkey_file = "missing.pem"', {}),
            ('algorithms = ["RS256", "HS256"]\nkey_file = "k"', {"k": public(Keys.RSA)}),
            (f'algorithms = ["none"]\n{HS}', {}),
            (f'algorithms = ["HS257"]\n{HS}', {}),
            (f"algorithms = []\n{HS}", {}),
            ('jwks_file = "k"', {"k": "[]"}),
            ('jwks_file = "k"', {"k": '{"keys": []}'}),
            ('algorithms = ["RS256"]\njwks_file = "k"', {"k": json.dumps({"keys": [jwk(Keys.EC, "ES256")]})}),
            ("", {}),
            (f'{HS}\nkey_file = "k"', {"k": SECRET}),
        ):
            with self.subTest(text=text, file=str(files)[:40]):
                said = self.check(text, files)
                for secret in (SECRET[:63], '"short"', private.splitlines()[1]):
                    self.assertNotIn(secret, said)


if __name__ == "__main__":
    unittest.main()
