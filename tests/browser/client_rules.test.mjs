/** When a connection is opened again, resumes, and falls back: the rules of `client/`, without a browser and without waiting. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { askedWaitMs, Connection, connect, fetchTicket, mayReconnect, retryDelayMs, TicketError } from "../../client/src/index.js";

/** A WebSocket that the test controls. */
class FakeWebSocket {
  static made = [];
  bufferedAmount = 0;
  sent = [];
  closed = null;

  constructor(url, protocols) {
    this.url = String(url);
    this.protocols = protocols;
    FakeWebSocket.made.push(this);
  }

  send(data) {
    this.sent.push(data);
  }

  close(code, reason = "") {
    const isAllowed = code === undefined || code === 1000 || (code >= 3000 && code <= 4999);
    if (!isAllowed || Buffer.byteLength(reason) > 123) throw new DOMException("refused", "InvalidAccessError");
    this.closed = code ?? 1005;
  }

  hear(value) {
    this.onmessage({ data: JSON.stringify(value) });
  }
}

/** An EventSource that the test controls. */
class FakeEventSource extends EventTarget {
  static made = [];
  CLOSED = 2;
  readyState = 0;

  constructor(url, options) {
    super();
    this.url = String(url);
    this.options = options;
    FakeEventSource.made.push(this);
  }

  open() {
    this.readyState = 1;
    this.onopen({});
  }

  hear(value, lastEventId) {
    this.onmessage({ data: JSON.stringify(value), lastEventId });
  }

  fail(readyState) {
    this.readyState = readyState;
    this.onerror({});
  }

  close() {
    this.readyState = 2;
  }
}

/** Returns a connection whose delays are always the longest possible, its history, and the sockets and streams it made. */
function make(t, options = {}) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const made = (FakeWebSocket.made = []);
  const streams = (FakeEventSource.made = []);
  const fakes = { WebSocket: FakeWebSocket, EventSource: FakeEventSource, random: () => 1 };
  const socket = new Connection("ws://test/", { ...fakes, ...options });
  const [statuses, events, gaps, presence] = [[], [], [], []];
  socket.on("status", ({ status }) => statuses.push(status));
  socket.on("event", (event) => events.push(event));
  socket.on("gap", () => gaps.push(events.length));
  socket.on("presence", (members) => presence.push(members));
  t.after(() => socket.close());
  return { socket, statuses, events, gaps, presence, made, streams, lose: (code, reason = "") => made.at(-1).onclose({ code, reason }) };
}

/** Node has no window and no document: these stand for them until the test ends. */
function makeWindow(t) {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: false });
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  globalThis.document = document;
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
    delete globalThis.document;
  });
  const show = (isShown) => {
    document.hidden = !isShown;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  const tell = (type, fields = {}) => window.dispatchEvent(Object.assign(new Event(type), fields));
  return { window, show, tell };
}

test("which codes are worth another attempt", () => {
  const check = (code, expected) => assert.equal(mayReconnect(code), expected, String(code));
  for (const code of [1001, 1005, 1006, 1009, 1011, 1012, 1013, 4000, 4499]) check(code, true);
  for (const code of [1000, 1008, 4401, 4500, 4999]) check(code, false);
});

test("the ceiling of the delay doubles up to its limit, and the delay is anything below", () => {
  const check = (code, attempt, expected) => assert.equal(retryDelayMs(code, attempt, { random: () => 1 }), expected);
  check(1006, 0, 1_000);
  check(1006, 1, 2_000);
  check(1006, 4, 16_000);
  check(1006, 5, 30_000);
  check(1006, 5_000, 30_000);
  check(1001, 0, 250);
  check(1012, 0, 250);
  check(1012, 1, 2_000);
  check(1013, 0, 8_000);
  assert.equal(retryDelayMs(1006, 3, { random: () => 0 }), 0);
});

test("the server's wait is at the end of the reason, and nowhere else", () => {
  const check = (reason, expected) => assert.equal(askedWaitMs(reason), expected, reason);
  check("the server is shutting down; retry_after=3", 3_000);
  check("retry_after=0", 0);
  check("", null);
  check("the server is shutting down", null);
  check("retry_after=3; the server is shutting down", null);
  check("no_retry_after=3", null);
  check("; retry_after=", null);
  check("; retry_after=-1", null);
  check("; retry_after=1e9", null);
  check("; retry_after=1234567", null);
});

test("a wait that the server asked for comes first, with a jitter that grows with the failures", () => {
  const delay = (attempt, random, reason = "x; retry_after=3") =>
    retryDelayMs(1001, attempt, { random: () => random }, reason);
  assert.deepEqual([delay(0, 0), delay(0, 0.5), delay(0, 1)], [3_000, 3_500, 4_000]);
  assert.deepEqual([delay(1, 1), delay(3, 1), delay(50, 1)], [4_000, 7_000, 33_000]);
  assert.equal(delay(0, 0, "x; retry_after=999999"), 300_000);
});

test("ten thousand clients that were told six times spread evenly over them", () => {
  const delays = Array.from({ length: 10_000 }, (_, at) => retryDelayMs(1001, 0, {}, `x; retry_after=${at % 6}`));
  const counts = Array(12).fill(0);
  for (const delay of delays) counts[Math.floor(delay / 500)] += 1;
  // 833 in each half second; random numbers stay within 25 %.
  assert.ok(counts.every((count) => count > 625 && count < 1_041), String(counts));
});

test("a socket that was told when to come back does so", (t) => {
  const { socket, made, lose } = make(t);
  socket.open();
  made[0].onopen();
  lose(1001, "the server is shutting down; retry_after=2");
  t.mock.timers.tick(2_999);
  assert.equal(made.length, 1);
  t.mock.timers.tick(1);
  assert.equal(made.length, 2);
});

test("a lost socket is opened again after the delay, each failure later", (t) => {
  const { socket, statuses, made, lose } = make(t);
  socket.open();
  made[0].onopen();
  lose(1006);
  t.mock.timers.tick(999);
  assert.equal(made.length, 1);
  t.mock.timers.tick(1);
  assert.equal(made.length, 2);
  lose(1006);
  t.mock.timers.tick(1_999);
  assert.equal(made.length, 2);
  t.mock.timers.tick(1);
  assert.equal(made.length, 3);
  assert.deepEqual(statuses, ["connecting", "open", "waiting", "connecting", "waiting", "connecting"]);
});

test("the delay starts anew only after a socket was stable", (t) => {
  const { socket, made, lose } = make(t);
  socket.open();
  lose(1006);
  t.mock.timers.tick(1_000);
  made[1].onopen();
  t.mock.timers.tick(9_999);
  lose(1006); // not stable yet: the second delay
  t.mock.timers.tick(1_999);
  assert.equal(made.length, 2);
  t.mock.timers.tick(1);
  made[2].onopen();
  t.mock.timers.tick(10_000);
  lose(1006); // stable: the first delay
  t.mock.timers.tick(1_000);
  assert.equal(made.length, 4);
});

test("a final code ends it until somebody opens it again", (t) => {
  const { socket, statuses, made, lose } = make(t);
  socket.open();
  made[0].onopen();
  lose(4500, "banned");
  t.mock.timers.tick(3_600_000);
  assert.equal(made.length, 1);
  assert.equal(statuses.at(-1), "closed");
  socket.open();
  assert.equal(made.length, 2);
});

test("a connection is closed whatever the code and the reason", (t) => {
  for (const [code, reason] of [[1001, "bye"], [4000, "x".repeat(200)], [0, ""]]) {
    const { socket, made } = make(t);
    const ends = [];
    socket.open();
    made[0].onopen();
    socket.on("status", (change) => ends.push(change));
    socket.close(code, reason);
    assert.equal(made[0].closed, 1005);
    assert.deepEqual(ends, [{ status: "closed", transport: null, code, reason, retryMs: null }]);
    assert.equal(socket.send("a"), false);
    t.mock.timers.reset();
  }
});

test("what no WebSocket takes is thrown to who connects, and leaves nothing behind", (t) => {
  const { tell } = makeWindow(t);
  let tries = 0;
  class Refusing {
    constructor() {
      tries += 1;
      throw new SyntaxError("the subprotocol is there twice");
    }
  }
  const { socket, statuses } = make(t, { WebSocket: Refusing });
  assert.throws(() => socket.open(), /twice/);
  assert.equal(socket.status, "closed");
  tell("online");
  t.mock.timers.tick(3_600_000);
  assert.equal(tries, 1);
  assert.deepEqual(statuses, []);
});

test("an attempt that throws later is a lost one", async (t) => {
  let isRefused = false;
  class Moody extends FakeWebSocket {
    constructor(...args) {
      if (isRefused) throw new SyntaxError("refused");
      super(...args);
    }
  }
  const { socket, statuses, made, lose } = make(t, { WebSocket: Moody });
  socket.open();
  isRefused = true;
  lose(1006);
  t.mock.timers.tick(1_000);
  assert.equal(socket.status, "waiting");
  isRefused = false;
  t.mock.timers.tick(2_000);
  made[1].onopen();
  assert.equal(statuses.at(-1), "open");
  t.mock.timers.reset();

  isRefused = true;
  const withTicket = make(t, { WebSocket: Moody, ticket: () => "no token" });
  withTicket.socket.open();
  await settled();
  assert.deepEqual(withTicket.statuses, ["connecting", "waiting"]);
});

test("an option that is undefined has its default", (t) => {
  const names = ["since", "events", "ticket", "connectMs", "hiddenMs", "probe", "protocols", "delayMs", "random", "soonMs"];
  const { socket, made, streams, lose } = make(t, Object.fromEntries(names.map((name) => [name, undefined])));
  socket.open();
  assert.deepEqual([made[0].url, made[0].protocols], ["ws://test/", []]);
  t.mock.timers.tick(9_999);
  assert.equal(socket.status, "connecting");
  for (let attempt = 0; attempt < 4; attempt += 1) {
    lose(1006);
    t.mock.timers.tick(30_000);
  }
  assert.equal(streams.length, 0);
  assert.equal(retryDelayMs(1006, 0, { delayMs: undefined, random: () => 1 }), 1_000);
});

test("each listener is told the newest status last, and nothing of a connection that was closed", (t) => {
  const { socket, presence, made } = make(t);
  const [told, heard] = [[], []];
  socket.on("status", ({ status }) => status === "waiting" && socket.open());
  socket.on("status", ({ status }) => told.push(status));
  socket.open();
  made[0].onopen();
  made[0].onclose({ code: 1006, reason: "" });
  assert.equal(socket.status, "connecting");
  assert.deepEqual(told, ["connecting", "open", "connecting"]);
  made[1].onopen();
  socket.on("message", () => socket.close());
  socket.on("event", (event) => heard.push(event));
  made[1].hear({ type: "chat.join", user: null, members: 2 });
  assert.deepEqual([heard, presence, socket.members], [[], [], null]);
});

test("sending is refused while there is no open socket, or one that does not keep up", (t) => {
  const { socket, made, lose } = make(t);
  assert.equal(socket.send("a"), false);
  socket.open();
  assert.equal(socket.send("b"), false);
  made[0].onopen();
  assert.equal(socket.send("c"), true);
  made[0].bufferedAmount = 1_000_000;
  assert.equal(socket.send("d"), false);
  made[0].bufferedAmount = 0;
  made[0].readyState = 2;
  assert.equal(socket.send("d"), false);
  lose(1006);
  assert.equal(socket.send("e"), false);
  assert.deepEqual(made[0].sent, ["c"]);
});

test("closing while it waits cancels the attempt, and a socket that was given up is not heard", (t) => {
  const { socket, statuses, made, lose } = make(t);
  socket.open();
  lose(1006);
  socket.close();
  t.mock.timers.tick(60_000);
  assert.equal(made.length, 1);
  made[0].onopen();
  assert.equal(statuses.at(-1), "closed");
});

test("a handshake that does not end is given up", (t) => {
  const { socket, made } = make(t);
  socket.open();
  t.mock.timers.tick(10_000);
  assert.equal(socket.status, "waiting");
  assert.notEqual(made[0].closed, null);
});

test("when the network is back, a waiting socket connects soon and an open one is asked for a sign of life", (t) => {
  const { window } = makeWindow(t);
  const { socket, made, lose } = make(t, { probe: "?" });
  socket.open();
  lose(1006);
  window.dispatchEvent(new Event("offline"));
  t.mock.timers.tick(29_999);
  assert.equal(made.length, 1);
  window.dispatchEvent(new Event("online"));
  t.mock.timers.tick(250);
  assert.equal(made.length, 2);

  made[1].onopen();
  window.dispatchEvent(new Event("online"));
  assert.deepEqual(made[1].sent, ["?"]);
  made[1].onmessage({ data: "!" });
  t.mock.timers.tick(5_000);
  assert.equal(socket.status, "open");
  window.dispatchEvent(new Event("online"));
  t.mock.timers.tick(5_000);
  assert.equal(socket.status, "waiting");
});

test("when the network is back, a socket that the server asked to wait waits on", (t) => {
  const { window } = makeWindow(t);
  const { socket, made, lose } = make(t, {});
  socket.open();
  lose(1001, "the server is shutting down; retry_after=20");
  t.mock.timers.tick(5_000);
  window.dispatchEvent(new Event("online"));
  t.mock.timers.tick(14_999);
  assert.equal(made.length, 1);
  t.mock.timers.tick(1_001);
  assert.equal(made.length, 2);
});

test("a clock that is set back while it waits does not make the wait longer", (t) => {
  const { window } = makeWindow(t);
  const { socket, made, lose } = make(t);
  socket.open();
  lose(1001, "the server is shutting down; retry_after=20");
  t.mock.timers.tick(5_000);
  const now = Date.now();
  const clock = t.mock.method(Date, "now", () => now - 3_600_000);
  window.dispatchEvent(new Event("online"));
  clock.mock.restore();
  t.mock.timers.tick(21_000);
  assert.equal(made.length, 2);
});

test("the URL has the page's host, and its scheme's counterpart", (t) => {
  const check = (page, url, expected) => {
    globalThis.location = new URL(page);
    t.after(() => delete globalThis.location);
    FakeWebSocket.made = [];
    connect(url, { WebSocket: FakeWebSocket }).close();
    assert.equal(FakeWebSocket.made[0].url, expected);
  };
  check("http://localhost:8000/chat/a/#top", "/ws/a/", "ws://localhost:8000/ws/a/");
  check("https://example.org/chat/a/", "/ws/a/?b=c#d", "wss://example.org/ws/a/?b=c");
  check("http://localhost/", "https://api.example.org/ws/a/", "wss://api.example.org/ws/a/");
  check("http://localhost/", new URL("wss://api.example.org/ws/"), "wss://api.example.org/ws/");
});

test("a listener that fails concerns neither the others nor the connection", (t) => {
  const { socket, events, made } = make(t);
  const failures = [];
  t.mock.method(globalThis, "queueMicrotask", (task) => failures.push(task));
  const offs = [socket.on("event", () => assert.fail("on purpose")), socket.on("event", (event) => events.push(event))];
  socket.open();
  made[0].onopen();
  made[0].hear({ type: "a" });
  assert.equal(events.length, 2);
  assert.equal(failures.length, 1);
  assert.throws(failures[0], /on purpose/);
  for (const off of offs) off();
  made[0].hear({ type: "b" });
  assert.equal(events.length, 3);
});

test("what is sent is text, bytes, or JSON; what comes is told as it is, and parsed if it is an object", (t) => {
  const { socket, events, made } = make(t);
  const messages = [];
  socket.on("message", (data) => messages.push(data));
  socket.open();
  made[0].onopen();
  const bytes = new Uint8Array([1]);
  for (const each of ["a", bytes, { b: 1 }, [2], null]) assert.equal(socket.send(each), true);
  assert.deepEqual(made[0].sent, ["a", bytes, '{"b":1}', "[2]", "null"]);
  for (const data of ["hi", "{", "[1]", '{"a":1}', bytes.buffer]) made[0].onmessage({ data });
  assert.deepEqual(messages, ["hi", "{", "[1]", '{"a":1}', bytes.buffer]);
  assert.deepEqual(events, [{ a: 1 }]);
});

test("a connection resumes at the position of its last event, and tells a gap", (t) => {
  const { socket, events, gaps, made, lose } = make(t);
  socket.open();
  assert.equal(made[0].url, "ws://test/");
  made[0].onopen();
  made[0].hear({ type: "oneport.joined", offset: "1f.41", recovered: null });
  assert.equal(socket.position, "1f.41");
  made[0].hear({ type: "news", offset: "1f.42" });
  made[0].hear({ type: "news", offset: "1f.43~a1b2.7" });
  lose(1006);
  t.mock.timers.tick(1_000);
  assert.equal(made[1].url, "ws://test/?since=1f.43%7Ea1b2.7");
  made[1].onopen();
  made[1].hear({ type: "oneport.joined", offset: "1f.43", recovered: true });
  made[1].hear({ type: "news", offset: "1f.44" });
  assert.deepEqual(gaps, []);
  lose(1006);
  t.mock.timers.tick(2_000);
  made[2].onopen();
  made[2].hear({ type: "oneport.joined", offset: "20.1", recovered: false });
  assert.deepEqual(gaps, [3]);
  assert.deepEqual(events.map(({ offset }) => offset), ["1f.42", "1f.43~a1b2.7", "1f.44"]);
});

test("an offset of an application's own event is no position", (t) => {
  const { socket, made, lose } = make(t);
  socket.open();
  made[0].onopen();
  made[0].hear({ type: "file", offset: "7" });
  assert.equal(socket.position, null);
  lose(1006);
  t.mock.timers.tick(1_000);
  assert.equal(made[1].url, "ws://test/");
});

test("a connection begins at the position that it is given", (t) => {
  const { socket, made } = make(t, { since: "1f.1" });
  socket.open();
  assert.equal(made[0].url, "ws://test/?since=1f.1");
});

test("members are counted while it is connected, and named when asked for", (t) => {
  const { socket, presence, made, lose } = make(t);
  socket.open();
  made[0].onopen();
  made[0].hear({ type: "chat.join", user: null, members: 2 });
  assert.equal(socket.members, 2);
  assert.equal(socket.who(), true);
  assert.deepEqual(made[0].sent, ['{"type":"who"}']);
  made[0].hear({ type: "chat.who", users: [null, "anna"], members: 2 });
  made[0].hear({ type: "chat.leave", user: "anna", members: 1 });
  lose(1006);
  assert.deepEqual(presence, [
    { members: 2, users: null },
    { members: 2, users: [null, "anna"] },
    { members: 1, users: null },
    { members: null, users: null },
  ]);
  assert.equal(socket.who(), false);
});

/** Makes a connection whose WebSockets fail twice, so that it listens to an event stream. */
function makeBlocked(t, options = {}) {
  const made = make(t, { events: "http://test/events/", ...options });
  made.socket.open();
  made.lose(1006);
  t.mock.timers.tick(1_000);
  made.lose(1006);
  t.mock.timers.tick(2_000);
  return made;
}

test("after two failed handshakes it listens to the event stream, and says so", (t) => {
  const { socket, events, gaps, made, streams } = makeBlocked(t);
  assert.equal(made.length, 2);
  assert.equal(streams[0].url, "http://test/events/?last_event_id=0.0");
  streams[0].open();
  assert.deepEqual([socket.status, socket.transport], ["open", "events"]);
  assert.equal(socket.send("a"), false);
  streams[0].dispatchEvent(new Event("oneport.gap")); // the history is whole for who is new
  assert.deepEqual(gaps, []);
  streams[0].hear({ type: "news" }, "1f.1");
  streams[0].dispatchEvent(new Event("oneport.gap"));
  assert.deepEqual(gaps, [1]);
  assert.deepEqual(events, [{ type: "news", offset: "1f.1" }]);
  assert.equal(socket.position, "1f.1");
});

test("without an event stream, or while handshakes succeed, there is no fallback", (t) => {
  const alone = make(t);
  alone.socket.open();
  for (let attempt = 0; attempt < 6; attempt += 1) {
    alone.lose(1006);
    t.mock.timers.tick(30_000);
  }
  assert.equal(alone.made.length, 7);
  assert.equal(alone.streams.length, 0);
  t.mock.timers.reset();
  const fine = make(t, { events: "http://test/events/" });
  fine.socket.open();
  for (let attempt = 0; attempt < 6; attempt += 1) {
    fine.made.at(-1).onopen();
    fine.lose(1006);
    t.mock.timers.tick(30_000);
  }
  assert.equal(fine.streams.length, 0);
});

test("a stream that cannot be opened either is followed by a WebSocket", (t) => {
  const { socket, made, streams } = makeBlocked(t);
  streams[0].fail(0);
  assert.equal(socket.status, "waiting");
  t.mock.timers.tick(30_000);
  assert.equal(made.length, 3);
  made[2].onclose({ code: 1006, reason: "" });
  t.mock.timers.tick(30_000);
  assert.equal(streams.length, 2);
});

test("a stream is left for a WebSocket as soon as one can be opened, without a loss or a double", (t) => {
  const { socket, events, presence, made, streams } = makeBlocked(t);
  streams[0].open();
  streams[0].hear({ type: "news", number: 1 }, "1f.1");
  t.mock.timers.tick(2_000);
  assert.equal(made[2].url, "ws://test/?since=1f.1");
  streams[0].hear({ type: "news", number: 2 }, "1f.2");
  streams[0].hear({ type: "chat.join", members: 3 }, "1f.2");
  assert.equal(socket.transport, "events");
  made[2].onopen();
  assert.deepEqual([socket.transport, streams[0].readyState], ["websocket", 2]);
  made[2].hear({ type: "oneport.joined", offset: "1f.1", recovered: true });
  made[2].hear({ type: "news", number: 2, offset: "1f.2" });
  made[2].hear({ type: "chat.join", members: 4, offset: "1f.2" });
  made[2].hear({ type: "news", number: 3, offset: "1f.3" });
  assert.deepEqual(events.filter(({ type }) => type === "news").map(({ number }) => number), [1, 2, 3]);
  assert.deepEqual(presence.map(({ members }) => members), [3, 4]);
  assert.equal(socket.send("a"), true);
});

test("a WebSocket is tried less and less often while it is blocked", (t) => {
  const { socket, made, streams } = makeBlocked(t);
  streams[0].open();
  for (const delayMs of [2_000, 4_000, 8_000, 16_000]) {
    const before = made.length;
    t.mock.timers.tick(delayMs - 1);
    assert.equal(made.length, before);
    t.mock.timers.tick(1);
    assert.equal(made.length, before + 1);
    made.at(-1).onclose({ code: 1006, reason: "" });
  }
  // One that hangs is given up too.
  t.mock.timers.tick(32_000);
  const hangs = made.at(-1);
  t.mock.timers.tick(10_000);
  assert.notEqual(hangs.closed, null);
  assert.equal(socket.transport, "events");
  socket.close();
  t.mock.timers.tick(3_600_000);
  assert.equal(made.at(-1), hangs);
});

test("a stream that breaks is resumed by the browser, or by us when the browser gives up", (t) => {
  const { socket, statuses, streams } = makeBlocked(t);
  streams[0].open();
  streams[0].hear({ type: "news" }, "1f.1");
  streams[0].fail(0);
  assert.equal(socket.status, "waiting");
  streams[0].open();
  assert.equal(statuses.at(-1), "open");
  streams[0].fail(2);
  assert.equal(socket.status, "waiting");
  t.mock.timers.tick(30_000);
  assert.equal(streams[1].url, "http://test/events/?last_event_id=1f.1");
});

test("a handshake under way is given up when the stream is lost, and a late one is not kept", (t) => {
  const { socket, made, streams } = makeBlocked(t);
  streams[0].open();
  t.mock.timers.tick(2_000);
  const late = made[2];
  streams[0].fail(0);
  assert.notEqual(late.closed, null);
  streams[0].open();
  t.mock.timers.tick(4_000);
  assert.equal(made.length, 4);
  late.onopen();
  assert.equal(socket.transport, "events");
  late.onclose({ code: 1006, reason: "" });
  assert.equal(made[3].closed, null);
  socket.close();
  assert.ok(made.slice(2).every(({ closed }) => closed !== null));
});

test("a ticket that is asked for when the stream is lost is not used", async (t) => {
  const gives = [];
  const ticket = () => new Promise((give, fail) => gives.push({ give, fail }));
  const { socket, made, streams } = make(t, { events: "http://test/events/", ticket });
  socket.open();
  for (const delayMs of [1_000, 2_000]) {
    await settled();
    gives.shift().fail(new Error("away"));
    await settled();
    t.mock.timers.tick(delayMs);
  }
  streams[0].open();
  t.mock.timers.tick(2_000);
  await settled();
  streams[0].fail(0);
  streams[0].open();
  gives.shift().give("late");
  await settled();
  assert.equal(made.length, 0);
});

test("a stream that the server ended comes back when the server said, which only the browser knows", (t) => {
  const { window, show } = makeWindow(t);
  const { socket, made, streams } = makeBlocked(t);
  streams[0].open();
  t.mock.timers.tick(2_000);
  made[2].onclose({ code: 1006, reason: "" });
  streams[0].fail(0);
  for (const type of ["offline", "online"]) window.dispatchEvent(new Event(type));
  show(true);
  t.mock.timers.tick(60_000);
  assert.deepEqual([socket.status, made.length, streams.length], ["waiting", 3, 1]);
  streams[0].open();
  assert.equal(socket.transport, "events");
  // The second attempt to upgrade, and not the first again.
  t.mock.timers.tick(3_999);
  assert.equal(made.length, 3);
  t.mock.timers.tick(1);
  assert.equal(made.length, 4);
  // One that never comes back is given up at last.
  streams[0].fail(0);
  t.mock.timers.tick(300_000);
  t.mock.timers.tick(30_000);
  assert.equal(streams[0].readyState, 2);
  assert.equal(streams.length, 2);
});

test("a stream whose login ends is closed for good", (t) => {
  const { socket, streams } = makeBlocked(t);
  const ends = [];
  socket.on("status", ({ status, code }) => ends.push([status, code]));
  streams[0].open();
  streams[0].dispatchEvent(new Event("oneport.session_ended"));
  assert.deepEqual(ends.at(-1), ["closed", 4401]);
  assert.equal(streams[0].readyState, 2);
});

/** Lets the promises that are settled already call what waits for them. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

test("each handshake has a ticket of its own", async (t) => {
  let number = 0;
  const { socket, made, lose } = make(t, { ticket: async () => `t${(number += 1)}`, protocols: ["chat"] });
  socket.open();
  assert.equal(made.length, 0);
  await settled();
  assert.deepEqual(made[0].protocols, ["chat", "ticket", "t1"]);
  made[0].onopen();
  lose(1006);
  t.mock.timers.tick(1_000);
  await settled();
  assert.deepEqual(made[1].protocols, ["chat", "ticket", "t2"]);
});

test("without a ticket it tries again, or ends if the login is not valid", async (t) => {
  const down = Object.assign(new Error("the network is down"), { code: 20 }); // as a DOMException has one
  const errors = [down, new TicketError(503), new TicketError(401)];
  const { socket, statuses, made } = make(t, { ticket: () => Promise.reject(errors.shift()) });
  const reasons = [];
  const codes = [];
  socket.on("status", ({ reason, code }) => reason && (reasons.push(reason), codes.push(code)));
  socket.open();
  await settled();
  t.mock.timers.tick(1_000);
  await settled();
  t.mock.timers.tick(2_000);
  await settled();
  assert.equal(made.length, 0);
  assert.deepEqual(statuses, ["connecting", "waiting", "connecting", "waiting", "connecting", "closed"]);
  assert.deepEqual(codes, [1006, 1006, 4401]);
  assert.deepEqual(reasons, ["the network is down", "no ticket: the server responds 503", "no ticket: the server responds 401"]);
});

test("a ticket that comes too late is not used", async (t) => {
  let give;
  const { socket, made } = make(t, { ticket: () => new Promise((resolve) => (give = resolve)) });
  socket.open();
  await settled();
  socket.close();
  give("late");
  await settled();
  assert.equal(made.length, 0);
});

test("a ticket is fetched by POST", async (t) => {
  const asked = [];
  const answers = [Response.json({ ticket: "abc", expires_in: 30 }), new Response("", { status: 403 })];
  t.mock.method(globalThis, "fetch", async (url, init) => {
    asked.push([url, init]);
    return answers.shift();
  });
  assert.equal(await fetchTicket("/ticket/", { headers: { authorization: "Bearer x" } }), "abc");
  const [[url, { signal, ...init }]] = asked;
  assert.deepEqual([url, init], ["/ticket/", { method: "POST", headers: { authorization: "Bearer x" } }]);
  assert.ok(signal instanceof AbortSignal); // a deadline
  await assert.rejects(fetchTicket("/ticket/"), { status: 403, code: 4401 });
});

test("a response without a ticket is none, and no handshake goes without one", async (t) => {
  t.mock.method(globalThis, "fetch", async () => Response.json({ login: "again" }));
  await assert.rejects(fetchTicket("/ticket/"), { status: 200, code: 1006 });
  const { socket, made } = make(t, { ticket: () => "" });
  socket.open();
  await settled();
  assert.equal(made.length, 0);
  assert.equal(socket.status, "waiting");
});

test("a login that has ended ends a connection over events too", async (t) => {
  const errors = [new Error("away"), new Error("away"), new TicketError(503), new TicketError(401)];
  const { socket, streams } = make(t, { events: "http://test/events/", ticket: () => Promise.reject(errors.shift()) });
  const codes = [];
  socket.on("status", ({ code }) => codes.push(code));
  socket.open();
  await settled();
  t.mock.timers.tick(1_000);
  await settled();
  t.mock.timers.tick(2_000);
  streams[0].open();
  t.mock.timers.tick(2_000);
  await settled();
  assert.equal(socket.transport, "events"); // 503: later
  t.mock.timers.tick(4_000);
  await settled();
  assert.deepEqual([socket.status, codes.at(-1)], ["closed", 4401]);
  assert.equal(streams[0].readyState, 2);
  t.mock.timers.tick(3_600_000);
  assert.equal(errors.length, 0);
});

test("a hidden page keeps its connection, unless it is told for how long", (t) => {
  const { window, show } = makeWindow(t);
  const { socket, statuses, made } = make(t, { hiddenMs: 60_000 });
  socket.open();
  made[0].onopen();
  show(false);
  t.mock.timers.tick(59_999);
  show(true);
  show(false);
  t.mock.timers.tick(59_999);
  assert.equal(made[0].closed, null);
  t.mock.timers.tick(1);
  assert.equal(made[0].closed, 1000);
  window.dispatchEvent(new Event("online"));
  t.mock.timers.tick(3_600_000);
  assert.equal(made.length, 1);
  show(true);
  t.mock.timers.tick(250);
  made[1].onopen();
  assert.deepEqual(statuses, ["connecting", "open", "waiting", "connecting", "open"]);
});

test("a page that was hidden from the beginning leaves too", (t) => {
  const { show } = makeWindow(t);
  show(false);
  const { socket, made } = make(t, { hiddenMs: 60_000 });
  socket.open();
  made[0].onopen();
  t.mock.timers.tick(60_000);
  assert.equal(made[0].closed, 1000);
});

test("a page that is shown again does not wait for the rest of a long delay", (t) => {
  const { show } = makeWindow(t);
  const { socket, made, lose } = make(t);
  socket.open();
  for (let attempt = 0; attempt < 5; attempt += 1) {
    lose(1006);
    t.mock.timers.tick(30_000);
  }
  lose(1006);
  const before = made.length;
  show(true);
  t.mock.timers.tick(250);
  assert.equal(made.length, before + 1);
});

test("a page that is kept for the way back has no connection there", (t) => {
  const { tell } = makeWindow(t);
  const { socket, made } = make(t);
  socket.open();
  made[0].onopen();
  tell("pagehide", { persisted: false });
  assert.equal(made[0].closed, null);
  tell("pagehide", { persisted: true });
  assert.equal(made[0].closed, 1000);
  tell("offline");
  t.mock.timers.tick(3_600_000);
  assert.equal(made.length, 1);
  tell("pageshow", { persisted: true });
  t.mock.timers.tick(250);
  assert.equal(made.length, 2);
  socket.close();
  tell("pageshow", { persisted: true });
  tell("online");
  t.mock.timers.tick(60_000);
  assert.equal(made.length, 2);
});
