/** The dashboard: what its page shows and does, with real clients, in a real browser. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { test } from "node:test";
import WebSocket from "ws";
import { openTab, startBrowser } from "./browser.mjs";
import { until } from "./deadline.mjs";
import { Peer } from "./peer.mjs";
import { freePort, ROOT, runUser, Server, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 120_000 };
const PASSWORD = "correct horse battery";
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const HOSTILE = "<img src=x onerror=document.title=1>";

const CONFIG = `
[server]
allowed_hosts = ["127.0.0.1"]

[server.limits]
connections_per_ip = 20000

[log]
access = false

[templates]
dir = ${JSON.stringify(path.join(ROOT, "templates"))}

[session]
store = "sqlite:sessions.db"
check_interval = "300ms"
cache = "0s"

[auth]
users = "sqlite:sessions.db"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/hello/"
name = "hello"
middleware = ["hosts"]
view = "respond"
options = { body = "hello" }

[[http.route]]
path = "/"
name = "index"
middleware = ["hosts"]
view = "respond"

[[http.route]]
path = "/static/{*path}"
name = "static"
middleware = ["hosts"]
view = "static"
options = { dir = ${JSON.stringify(path.join(ROOT, "templates/static"))} }

[[http.route]]
path = "/login/"
name = "login"
view = "login"

[[http.route]]
path = "/logout/"
name = "logout"
view = "logout"

[[http.route]]
path = "/dashboard/"
name = "dashboard"
middleware = ["hosts", "session", "auth", "staff_required"]
view = "dashboard"

[websocket]
middleware = ["hosts", "origin"]

[[websocket.route]]
path = "/dashboard/"
name = "dashboard"
middleware = ["hosts", "origin", "session", "auth", "staff_required"]
consumer = "dashboard"

[[websocket.route]]
path = "/ws/chat/{room}/"
name = "chat"
consumer = "chat"
options = { group = "chat_{room}" }

[[websocket.route]]
path = "/ws/short/"
name = ${JSON.stringify(HOSTILE)}
consumer = "echo"
max_message = "16 B"
`;

/** Starts a server with a member of staff, and opens the dashboard as her. */
async function start(t, { viewport = { width: 1280, height: 900 }, colorScheme = "light" } = {}) {
  const file = temporaryConfig(t, CONFIG);
  runUser(file, ["add", "ann", "--staff", "--password-stdin"], `${PASSWORD}\n`);
  const port = await freePort();
  const server = await Server.start(t, { config: file, port });
  const browser = await startBrowser(t);
  const context = await browser.newContext({ viewport, colorScheme, reducedMotion: "reduce" });
  const tab = await openTab(context, `${server.origin}/login/?next=/dashboard/`);
  await tab.fill("[name=username]", "ann");
  await tab.fill("[name=password]", PASSWORD);
  await tab.press("[name=password]", "Enter");
  await tab.waitForURL("**/dashboard/");
  await live(tab);
  return { server, context, tab, file };
}

const live = (tab) => tab.waitForFunction(() => document.getElementById("state").textContent === "Live");

/** Opens a part of the page. */
async function open(tab, part) {
  await tab.evaluate((part) => (location.hash = part), part);
}

/** Waits until a row of a table has a cell with this text. */
async function waitForRow(tab, text) {
  await tab.waitForFunction((text) => [...document.querySelectorAll("tbody tr")].some((row) => row.textContent.includes(text)), text);
}

/** Opens a socket and waits until it is open. */
async function client(t, server, path, headers = {}) {
  const socket = new WebSocket(new URL(path, server.origin.replace("http", "ws")), { origin: server.origin, headers });
  socket.on("error", () => {});
  t.after(() => socket.terminate());
  await new Promise((resolve, reject) => socket.once("open", resolve).once("close", reject));
  return socket;
}

test("figures move with the load, and the page breaks no rule of its policy", LIMIT, async (t) => {
  const { server, tab } = await start(t);
  await tab.waitForSelector(".plot canvas");
  const key = (plot, label) =>
    tab.evaluate(({ plot, label }) => {
      const section = document.querySelector(`.plot[aria-label="${plot}"]`);
      return [...section.querySelectorAll("dl div")].find((div) => div.querySelector("dt").textContent === label)?.querySelector("dd").textContent;
    }, { plot, label });
  assert.equal(await key("Connections", "WebSockets"), "1");
  const peers = await Promise.all(Array.from({ length: 5 }, () => Peer.connect(t, server, "/ws/chat/lobby/")));
  const load = setInterval(() => {
    peers.forEach((peer) => peer.send({ message: "hi" }));
    for (let n = 0; n < 5; n += 1) fetch(`${server.origin}/hello/`).then((response) => response.text()).catch(() => {});
  }, 50);
  t.after(() => clearInterval(load));
  await until(async () => (await key("Connections", "WebSockets")) === "6", "six sockets");
  const perSecond = async (plot, label) => Number.parseFloat(await key(plot, label));
  await until(async () => (await perSecond("Messages", "in")) > 20, "messages per second");
  await until(async () => (await perSecond("Requests", "2xx")) > 20, "requests per second");
  await waitForRow(tab, "hello");
  await open(tab, "routes");
  await tab.waitForFunction(() => {
    const row = [...document.querySelectorAll("tbody tr")].find((row) => row.querySelector("th").textContent === "chat");
    return row !== undefined && Number.parseFloat(row.children[5].textContent) > 20;
  });
  assert.deepEqual(tab.errors, []);
});

test("a fragment that names no part opens the overview", LIMIT, async (t) => {
  const { tab } = await start(t);
  // A name that every object has.
  await open(tab, "constructor");
  await tab.reload();
  await live(tab);
  assert.equal(await tab.textContent("main h2"), "Overview");
  assert.deepEqual(tab.errors, []);
});

test("a message and a close from the page reach the client", LIMIT, async (t) => {
  const { server, tab } = await start(t);
  const socket = await client(t, server, "/ws/chat/lobby/?token=secret", { cookie: "sessionid=secret; x=secret" });
  const received = [];
  socket.on("message", (data) => received.push(data.toString()));
  const closed = new Promise((resolve) => socket.once("close", (code, reason) => resolve([code, reason.toString()])));
  await open(tab, "sockets/route/chat");
  await tab.click("tbody a");
  await tab.waitForSelector("dl.fields dd");
  const text = await tab.textContent("main");
  assert.ok(text.includes("cookie") && text.includes("hidden") && text.includes("token=…"), text);
  assert.ok(!text.includes("secret"), text);
  const notice = '{"type": "notice", "text": "<b>hi</b>"}';
  await tab.fill("textarea", notice);
  await tab.click("text=Send");
  await until(() => received.includes(notice), "the message");
  await tab.fill("input[type=number]", "4001");
  await tab.getByLabel("Reason").fill("moved");
  await tab.click("text=Close the socket");
  assert.deepEqual(await closed, [4001, "moved"]);
  await tab.waitForSelector("text=This socket is closed.");
  assert.ok(await tab.isDisabled("text=Close the socket"));
  await open(tab, "ends");
  await waitForRow(tab, "4001 disconnected");
  assert.deepEqual(tab.errors, []);
});

test("names and paths of strangers are text", LIMIT, async (t) => {
  const { server, tab } = await start(t);
  const room = encodeURIComponent(HOSTILE).replaceAll("(", "%28");
  const hostile = { "user-agent": HOSTILE, "x-forwarded-for": HOSTILE };
  const short = await client(t, server, "/ws/short/", hostile);
  const other = await client(t, server, "/ws/short/", hostile);
  short.send("x".repeat(50));
  const refused = new WebSocket(`${server.origin.replace("http", "ws")}/nothing/${room}/`, { origin: server.origin });
  refused.on("error", () => {});
  await open(tab, "ends");
  await waitForRow(tab, "too big");
  await waitForRow(tab, "max_message = 16 B");
  await waitForRow(tab, `/nothing/${HOSTILE}/`);
  for (const part of ["overview", "routes", "groups", "processes", `sockets/route/${encodeURIComponent(HOSTILE)}`]) {
    await open(tab, part);
    if (part !== "groups" && part !== "processes") await waitForRow(tab, HOSTILE);
  }
  await tab.click("tbody a");
  await tab.waitForFunction((text) => document.querySelector("dl.fields")?.textContent.includes(text), HOSTILE);
  assert.equal(await tab.locator("main img, main script, main iframe").count(), 0);
  assert.notEqual(await tab.title(), "1");
  other.close();
  assert.deepEqual(tab.errors, []);
});

test("the page comes back after a restart, and says meanwhile that the server is away", LIMIT, async (t) => {
  const { server, tab } = await start(t);
  await server.kill();
  await tab.waitForSelector("#notice:not([hidden])");
  assert.equal(await tab.textContent("#state"), "Away");
  const before = await tab.evaluate(() => document.querySelector("#facts").textContent);
  await server.start();
  await live(tab);
  await tab.waitForFunction((before) => document.querySelector("#facts").textContent !== before, before);
  assert.ok(await tab.isHidden("#notice"));
});

test("who is no longer staff is cut off, and a visitor never gets in", LIMIT, async (t) => {
  const { tab, file, server, context } = await start(t);
  runUser(file, ["add", "bob", "--password-stdin"], `${PASSWORD}\n`);
  runUser(file, ["remove", "ann"]);
  await tab.waitForFunction(() => document.getElementById("state").textContent === "Ended");
  assert.match(await tab.textContent("#notice"), /Your login has ended/);
  await context.clearCookies();
  const other = await openTab(context, `${server.origin}/login/?next=/dashboard/`);
  await other.fill("[name=username]", "bob");
  await other.fill("[name=password]", PASSWORD);
  const answer = other.waitForResponse((response) => new URL(response.url()).pathname === "/dashboard/");
  await other.press("[name=password]", "Enter");
  assert.equal((await answer).status(), 403);
});

test("everything is reached by keyboard, and the focus stays while rows change", LIMIT, async (t) => {
  const { server, tab } = await start(t);
  const peer = await Peer.connect(t, server, "/ws/chat/lobby/");
  await tab.keyboard.press("Tab");
  assert.equal(await tab.evaluate(() => document.activeElement.id), "skip");
  for (let presses = 0; presses < 12; presses += 1) {
    await tab.keyboard.press("Tab");
    if ((await tab.evaluate(() => document.activeElement.textContent)) === "Routes") break;
  }
  await tab.keyboard.press("Enter");
  await tab.waitForFunction(() => document.activeElement.textContent === "Routes" && document.activeElement.tagName === "H2");
  await tab.getByRole("button", { name: "In", exact: true }).focus();
  await tab.keyboard.press("Enter");
  await tab.waitForFunction(() => document.querySelector("[aria-sort=descending]")?.textContent === "In");
  const link = tab.getByRole("link", { name: "1", exact: true }).last();
  await link.focus();
  for (let n = 0; n < 3; n += 1) {
    peer.send({ message: "hi" });
    await tab.waitForTimeout(700);
  }
  assert.equal(await tab.evaluate(() => document.activeElement.tagName), "A");
});

for (const [width, colorScheme] of [[1280, "light"], [390, "dark"]]) {
  test(`no rule of accessibility is broken at ${width} pixels, ${colorScheme}`, LIMIT, async (t) => {
    const { server, tab } = await start(t, { viewport: { width, height: 844 }, colorScheme });
    const socket = await client(t, server, "/ws/short/");
    await client(t, server, "/ws/chat/lobby/");
    socket.send("x".repeat(50));
    for (const part of ["overview", "routes", "sockets", "groups", "ends", "processes", "sockets/route/chat"]) {
      await open(tab, part);
      await tab.waitForSelector("tbody tr");
      if (part === "sockets/route/chat") {
        await tab.click("tbody a");
        await tab.waitForSelector("dl.fields dd");
      }
      await tab.evaluate(AXE);
      const { violations } = await tab.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
      const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
      assert.deepEqual(found, [], part);
      const overflow = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${part} is ${overflow} pixels too wide`);
    }
  });
}

test("thousands of sockets leave the page quick", LIMIT, async (t) => {
  const { server, tab } = await start(t);
  const sockets = [];
  t.after(() => sockets.forEach((socket) => socket.terminate()));
  const url = `${server.origin.replace("http", "ws")}/ws/chat/crowd/`;
  const COUNT = 3_000; // a page shows 200 of them, however many there are
  for (let at = 0; at < COUNT; at += 250) {
    await Promise.all(
      Array.from({ length: 250 }, () => {
        const socket = new WebSocket(url, { origin: server.origin, perMessageDeflate: false });
        sockets.push(socket);
        socket.on("error", () => {});
        return new Promise((resolve) => socket.once("open", resolve).once("close", resolve));
      }),
    );
  }
  await open(tab, "sockets/route/chat");
  await tab.waitForFunction(() => document.querySelectorAll("tbody tr").length === 200);
  const first = await tab.textContent("tbody tr a");
  await tab.click("text=Next page");
  await tab.waitForFunction((first) => document.querySelector("tbody tr a")?.textContent !== first, first);
  assert.equal(await tab.locator("tbody tr").count(), 200);
  // The longest task of the page in three seconds of updates.
  const longest = await tab.evaluate(async () => {
    let longest = 0;
    const observer = new PerformanceObserver((list) => list.getEntries().forEach((entry) => (longest = Math.max(longest, entry.duration))));
    observer.observe({ entryTypes: ["longtask"] });
    await new Promise((resolve) => setTimeout(resolve, 6_500));
    return longest;
  });
  assert.ok(longest < 500, `a task of ${longest} ms`);
  await open(tab, "groups/chat_crowd");
  await tab.waitForSelector(`text=${COUNT.toLocaleString("en-US")} members`);
});
