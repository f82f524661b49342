/** When a socket reconnects: the rules of `templates/static/socket.js`, without a browser and without waiting. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { askedWaitMs, mayReconnect, ReconnectingSocket, retryDelayMs, socketUrl } from "../../templates/static/socket.js";

/** A WebSocket that the test controls. */
class FakeWebSocket {
  static made = [];
  bufferedAmount = 0;
  sent = [];
  closed = null;

  constructor(url) {
    this.url = url;
    FakeWebSocket.made.push(this);
  }

  send(data) {
    this.sent.push(data);
  }

  close(code) {
    this.closed = code ?? 1005;
  }
}

/** Returns a socket whose delays are always the longest possible, its history of statuses, and the sockets it made. */
function make(t, options = {}) {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const made = (FakeWebSocket.made = []);
  const socket = new ReconnectingSocket("ws://test/", { WebSocket: FakeWebSocket, random: () => 1, ...options });
  const statuses = [];
  socket.addEventListener("status", ({ detail }) => statuses.push(detail.status));
  t.after(() => socket.close());
  return { socket, statuses, made, lose: (code, reason = "") => made.at(-1).onclose({ code, reason }) };
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

test("sending is refused while there is no open socket, or one that does not keep up", (t) => {
  const { socket, made, lose } = make(t);
  assert.equal(socket.send("a"), false);
  socket.open();
  assert.equal(socket.send("b"), false);
  made[0].onopen();
  assert.equal(socket.send("c"), true);
  made[0].bufferedAmount = 1_000_000;
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
  // Node has no window: an EventTarget's methods on the global object stand for it.
  const window = new EventTarget();
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });
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
  const window = new EventTarget();
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });
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

test("the URL has the page's host, and its scheme's counterpart", () => {
  const check = (page, expected) => assert.equal(socketUrl("/ws/a/", new URL(page)), expected);
  check("http://localhost:8000/chat/a/#top", "ws://localhost:8000/ws/a/");
  check("https://example.org/chat/a/", "wss://example.org/ws/a/");
});
