/** Compression: permessage-deflate by the `ws` library, with every option it has. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import zlib from "node:zlib";
import { Peer } from "./peer.mjs";
import { Server } from "./server.mjs";

const KEPT = "server_context_takeover = true\nclient_context_takeover = true";

// The compression settings of each route.
const ROUTES = {
  fresh: 'compression_threshold = "0 B"',
  kept: `compression_threshold = "0 B"\n${KEPT}`,
  small: `compression_threshold = "0 B"\n${KEPT}\nserver_max_window_bits = 9\nclient_max_window_bits = 10`,
  default: "",
  off: 'compression = "off"',
};

const CONFIG = `
[websocket]
max_message = "2 MiB"
send_queue = "8 MiB"
${Object.entries(ROUTES)
  .map(([name, settings]) => `[[websocket.route]]\npath = "/ws/${name}/"\nconsumer = "echo"\n${settings}\n`)
  .join("\n")}
[[websocket.route]]
path = "/ws/all/fresh/"
consumer = "broadcast"
options = { group = "all" }

[[websocket.route]]
path = "/ws/all/kept/"
consumer = "broadcast"
${KEPT}
options = { group = "all" }

[[websocket.route]]
path = "/ws/narrow/"
consumer = "echo"
max_message = "4 KiB"
`;

const words = (length) => "all that was said before is of use, ".repeat(length / 36 + 1).slice(0, length);
const BLOCK = randomBytes(300);
const FAR = Buffer.concat([100, 300, 800, 1800, 3900, 8000, 16200, 33000].flatMap((gap) => [BLOCK, randomBytes(gap)]).concat(BLOCK));

const MESSAGES = [
  "",
  Buffer.alloc(0),
  "a",
  words(125),
  words(126),
  randomBytes(126),
  "grüße ☕ 🦀 ".repeat(2000),
  FAR,
  FAR,
  words(65535),
  words(65536),
  randomBytes(65536),
];

async function talk(peer, messages = MESSAGES) {
  for (const message of messages) {
    peer.send(message, { compress: true });
    const back = await peer.receive();
    assert.ok(typeof back === "string" ? back === message : back.equals(message), `${message.length} bytes came back wrong`);
  }
}

/** The negotiated extension, from the response. */
const agreed = (peer) => peer.socket.extensions;

test("every message comes back whatever is kept", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const route of Object.keys(ROUTES)) {
    for (const serverNoContextTakeover of [false, true]) {
      for (const clientNoContextTakeover of [undefined, true]) {
        const perMessageDeflate = { threshold: 0, serverNoContextTakeover, clientNoContextTakeover };
        const peer = await Peer.connect(t, server, `/ws/${route}/`, { perMessageDeflate });
        assert.equal(agreed(peer), route === "off" ? "" : "permessage-deflate");
        await talk(peer);
        peer.socket.close(1000, "done");
        assert.equal((await peer.closed()).code, 1000);
        assert.equal(peer.error, undefined);
      }
    }
  }
});

test("every message comes back whatever the windows", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const route of ["fresh", "kept", "small"]) {
    for (const serverMaxWindowBits of [undefined, 9, 10, 12, 15]) {
      for (const clientMaxWindowBits of [true, 9, 10, 11, 12, 13, 14, 15]) {
        const perMessageDeflate = { threshold: 0, serverMaxWindowBits, clientMaxWindowBits };
        const peer = await Peer.connect(t, server, `/ws/${route}/`, { perMessageDeflate });
        assert.equal(agreed(peer), "permessage-deflate");
        await talk(peer, ["", words(500), FAR, words(5000), FAR, randomBytes(3000)]);
        peer.socket.terminate();
      }
    }
  }
});

test("each window of the server is kept to", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (let bits = 9; bits <= 15; bits += 1) {
    const peer = await Peer.connect(t, server, "/ws/kept/", { perMessageDeflate: { threshold: 0, serverMaxWindowBits: bits } });
    await talk(peer, [FAR, FAR, words(65536), FAR]);
  }
});

test("a window of eight bits for the server is not agreed to, and the socket opens without compression", async (t) => {
  const server = await Server.start(t, CONFIG);
  const peer = await Peer.connect(t, server, "/ws/kept/", { perMessageDeflate: { threshold: 0, serverMaxWindowBits: 8 } });
  assert.equal(agreed(peer), "");
  await talk(peer);
});

test("a client that insists on keeping its context gets through where the route lets it", async (t) => {
  const server = await Server.start(t, CONFIG);
  await talk(await Peer.connect(t, server, "/ws/kept/", { perMessageDeflate: { threshold: 0, clientNoContextTakeover: false } }));
});

test("whatever compressor a client has it is understood", async (t) => {
  const server = await Server.start(t, CONFIG);
  const { Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE } = zlib.constants;
  const ways = [{ level: 0 }, { level: 1 }, { level: 9 }, { memLevel: 1 }, { memLevel: 9 }];
  ways.push({ strategy: Z_FIXED }, { strategy: Z_HUFFMAN_ONLY }, { strategy: Z_RLE });
  for (const zlibDeflateOptions of ways) {
    for (const route of ["fresh", "kept"]) {
      await talk(await Peer.connect(t, server, `/ws/${route}/`, { perMessageDeflate: { threshold: 0, zlibDeflateOptions } }));
    }
  }
});

test("two hundred messages that are all under way come back in order", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const route of Object.keys(ROUTES)) {
    const peer = await Peer.connect(t, server, `/ws/${route}/`, { perMessageDeflate: { threshold: 0 } });
    const messages = Array.from({ length: 200 }, (_, number) => `${number} ${words((number % 13) * 150)}`);
    for (const message of messages) peer.send(message);
    for (const message of messages) assert.equal(await peer.receive(), message);
  }
});

test("compressed fragments with pings between them are one message", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const route of ["fresh", "kept", "small"]) {
    const peer = await Peer.connect(t, server, `/ws/${route}/`, { perMessageDeflate: { threshold: 0 } });
    for (let turn = 0; turn < 5; turn += 1) {
      peer.pongs.length = 0;
      peer.send(words(1000), { fin: false });
      peer.socket.ping("between");
      peer.send("", { fin: false });
      peer.send("☕".repeat(1000), { fin: true });
      assert.equal(await peer.receive(), words(1000) + "☕".repeat(1000));
      assert.deepEqual(peer.pongs, ["between"]);
    }
  }
});

test("plain and compressed messages may take turns", async (t) => {
  const server = await Server.start(t, CONFIG);
  const peer = await Peer.connect(t, server, "/ws/kept/", { perMessageDeflate: { threshold: 0 } });
  for (let turn = 0; turn < 20; turn += 1) {
    peer.send(words(2000), { compress: turn % 2 === 0 });
    assert.equal(await peer.receive(), words(2000));
  }
});

test("a mebibyte comes back", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const route of ["fresh", "kept"]) {
    const peer = await Peer.connect(t, server, `/ws/${route}/`, { perMessageDeflate: { threshold: 0 } });
    await talk(peer, [words(1 << 20), randomBytes(1 << 20), Buffer.alloc(1 << 20)]);
  }
});

test("the limit is the limit of what was compressed", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const message of ["a".repeat(4097), Buffer.alloc(8 << 20)]) {
    const peer = await Peer.connect(t, server, "/ws/narrow/", { perMessageDeflate: { threshold: 0 } });
    await talk(peer, ["a".repeat(4096)]);
    peer.send(message);
    assert.equal((await peer.closed()).code, 1009);
  }
});

test("members of a group hear the same whatever each agreed to", async (t) => {
  const server = await Server.start(t, CONFIG);
  const offers = [false, true, { serverMaxWindowBits: 9 }, { serverNoContextTakeover: true }, { clientMaxWindowBits: 9 }];
  const members = [];
  for (const route of ["fresh", "kept"]) {
    for (const perMessageDeflate of offers) members.push(await Peer.connect(t, server, `/ws/all/${route}/`, { perMessageDeflate }));
  }
  for (const sender of members) {
    for (const message of ["", words(3000), FAR, randomBytes(1000), words(3000)]) {
      sender.send(message);
      for (const member of members) assert.deepEqual(await member.receive(), message);
    }
  }
});
