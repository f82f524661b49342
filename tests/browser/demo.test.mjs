/** The demo as it is shipped: `config/oneport.toml` and its pages, in Chromium. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openRoom, openTab, say, screenshotPath, startBrowser, waitForStatus, waitForText } from "./browser.mjs";
import { until } from "./deadline.mjs";
import { partsOf } from "../../templates/static/links.js";
import { Peer } from "./peer.mjs";
import { Proxy } from "./proxy.mjs";
import { ROOT, Server } from "./server.mjs";

const CONFIG = path.join(ROOT, "config/oneport.toml");
const SIZES = { phone: { width: 360, height: 740 }, desktop: { width: 1280, height: 800 } };
const LIMIT = { timeout: 90_000 };

async function start(t) {
  const server = await Server.start(t, { config: CONFIG });
  const browser = await startBrowser(t);
  return { server, browser, context: await browser.newContext() };
}

test("the front page leads into a room by keyboard, without an error in the console", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/`);
  await tab.focus("#room");
  await tab.keyboard.type("Café, 2nd floor");
  await tab.keyboard.press("Enter");
  await tab.waitForURL("**/chat/Cafe-2nd-floor/");
  await waitForStatus(tab, "Connected");
  assert.equal(await tab.textContent("h1"), "Cafe-2nd-floor");
  assert.deepEqual(tab.errors, []);
});

test("the front page shows routes that stand in the configuration", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/`);
  const config = readFileSync(CONFIG, "utf8");
  const shown = await tab.locator(".routes pre").allTextContents();
  assert.equal(shown.length, 3);
  for (const route of shown) assert.ok(config.includes(route.trim()), `expected in config/oneport.toml:\n${route}`);
});

test("two tabs of a room hear each other, and a third one reads what was said", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const url = `${server.origin}/chat/lobby/`;
  const anna = await openRoom(context, url);
  const ben = await openRoom(context, url);
  await waitForText(anna, "#members", "2 here");
  await say(anna, "#text", "hi ben");
  await waitForText(ben, ".message-text", "hi ben");
  await say(ben, "#text", "hi anna");
  await waitForText(anna, ".message-text", "hi anna");

  const late = await openRoom(context, url);
  await waitForText(late, ".message-text", "hi anna");
  assert.deepEqual(await late.locator(".message-text").allTextContents(), ["hi ben", "hi anna"]);
  assert.deepEqual(await late.locator(".message-name").allTextContents(), ["anonymous", "anonymous"]);
  for (const tab of [anna, ben, late]) assert.deepEqual(tab.errors, []);
});

test("a tab that is closed is told to the others, and what is said elsewhere is not", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const stays = await openRoom(context, `${server.origin}/chat/here/`);
  const goes = await openRoom(context, `${server.origin}/chat/here/`);
  const elsewhere = await openRoom(context, `${server.origin}/chat/there/`);
  await waitForText(stays, "#members", "2 here");
  await say(elsewhere, "#text", "not for you");
  await waitForText(elsewhere, ".message-text", "not for you");
  await goes.close();
  await waitForText(stays, "#members", "1 here");
  await waitForText(stays, ".presence", "anonymous left");
  assert.equal(await stays.locator(".message").count(), 0);
});

test("markup in a message is shown as text", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/markup/`);
  const attack = `<script>window.attacked = 1</script><img src=x onerror="window.attacked = 1">`;
  await say(tab, "#text", attack);
  await waitForText(tab, ".message-text", attack);
  assert.equal(await tab.locator("#log script, #log img").count(), 0);
  assert.equal(await tab.evaluate(() => window.attacked), undefined);
});

test("a refused message says why, and is given back", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/refused/`);
  await tab.evaluate(() => document.getElementById("text").removeAttribute("maxlength"));
  const text = "a".repeat(4_001);
  await say(tab, "#text", text);
  await waitForText(tab, "#notice-text", "expected at most 4000 characters");
  assert.equal(await tab.inputValue("#text"), text);
});

test("the page says that it reconnects when the server dies, and comes back with the server", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/lobby/`);
  await say(tab, "#text", "before");
  await waitForText(tab, ".message-text", "before");

  await server.kill();
  await waitForStatus(tab, "Reconnecting");
  await tab.fill("#text", "while it was gone");
  assert.equal(await tab.isDisabled("#send"), true);
  await tab.press("#text", "Enter");
  assert.equal(await tab.inputValue("#text"), "while it was gone");

  await server.start();
  await waitForStatus(tab, "Connected");
  await tab.press("#text", "Enter");
  await waitForText(tab, ".message-text", "while it was gone");
  assert.deepEqual(await tab.locator(".message-text").allTextContents(), ["before", "while it was gone"]);
});

test("history that comes again after a lost connection is not shown again", LIMIT, async (t) => {
  const { server, context } = await start(t);
  // The page's way to the server goes through the test, which can cut it while the server stays.
  const cuts = [];
  await context.routeWebSocket("**/ws/chat/**", (route) => {
    const upstream = route.connectToServer();
    cuts.push(async () => {
      await upstream.close();
      await route.close({ code: 1012 });
    });
  });
  const tab = await openRoom(context, `${server.origin}/chat/again/`);
  await say(tab, "#text", "only once");
  await waitForText(tab, ".message-text", "only once");
  await cuts[0]();
  await until(() => cuts.length === 2, "a second connection");
  const peer = await Peer.connect(t, server, "/ws/chat/again/");
  await waitForText(tab, "#members", "2 here");
  peer.send({ message: "and then" });
  await waitForText(tab, ".message-text", "and then");
  assert.deepEqual(await tab.locator(".message-text").allTextContents(), ["only once", "and then"]);
});

test("two messages that only their positions tell apart are two, and one of them may be the visitor's own", LIMIT, async (t) => {
  const { server, context } = await start(t);
  // As from two anonymous visitors within one millisecond.
  const say = { type: "chat.message", message: "hi", user: null, at: "2026-01-01T00:00:00.000Z" };
  await context.routeWebSocket("**/ws/chat/**", (route) => {
    const tell = (...events) => events.forEach((event) => route.send(JSON.stringify(event)));
    tell({ type: "oneport.joined", offset: "1f.0", recovered: null }, { ...say, offset: "1f.1" }, { ...say, offset: "1f.2" }, { ...say, offset: "1f.2" });
    route.onMessage((text) => {
      const { ref, message } = JSON.parse(text);
      if (message === undefined) return;
      tell({ ...say, message, ref, offset: "1f.3" }, { ...say, message, ref, offset: "1f.4" });
      // The group's history has begun anew, with messages that were seen before.
      const again = [{ ...say, offset: "2a.1" }, { ...say, message, ref, offset: "2a.2" }];
      tell({ type: "oneport.joined", offset: "2a.0", recovered: false }, ...again, { ...say, message: "last", offset: "2a.3" });
    });
  });
  const tab = await openRoom(context, `${server.origin}/chat/twins/`);
  await tab.waitForFunction(() => document.querySelectorAll(".message").length > 0);
  await tab.fill("#text", "me");
  await tab.press("#text", "Enter");
  await waitForText(tab, ".message-text", "last");
  assert.deepEqual(await tab.locator(".message-text").allTextContents(), ["hi", "hi", "me", "me", "last"]);
  assert.equal(await tab.locator(".own").count(), 1);
});

test("a reader who scrolled up stays there, and the page keeps a bounded number of messages", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/busy/`);
  const peer = await Peer.connect(t, server, "/ws/chat/busy/");
  for (let number = 0; number < 100; number += 1) peer.send({ message: `line ${number}` });
  await waitForText(tab, ".message-text", "line 99");
  const distance = () => tab.evaluate(() => log.scrollHeight - log.scrollTop - log.clientHeight);
  assert.ok((await distance()) < 2, "the page follows at the end");

  const offset = () =>
    tab.evaluate(() => {
      const entry = [...document.querySelectorAll(".message-text")].find((node) => node.textContent === "line 50");
      return Math.round(entry.getBoundingClientRect().top);
    });
  await tab.evaluate(() => {
    const entry = [...document.querySelectorAll(".message-text")].find((node) => node.textContent === "line 50");
    entry.scrollIntoView({ block: "center" });
  });
  const before = await offset();
  for (let number = 100; number < 320; number += 1) peer.send({ message: `line ${number}` });
  await waitForText(tab, ".message-text", "line 319");
  assert.ok(Math.abs((await offset()) - before) <= 2, `expected line 50 at ${before}, found ${await offset()}`);
  assert.ok((await tab.locator("#log > *").count()) <= 300);
  await waitForText(tab, "#newer", "220 new messages");
  await tab.click("#newer");
  assert.ok((await distance()) < 2);
  assert.equal(await tab.isVisible("#newer"), false);
});

test("a visitor who is not logged in may have a nickname, which is no user's name", LIMIT, async (t) => {
  const { server, browser, context } = await start(t);
  const url = `${server.origin}/chat/names/`;
  const tab = await openRoom(context, url);
  const other = await openRoom(await browser.newContext(), url);
  await tab.fill("#nickname", "  Ben ");
  await tab.press("#nickname", "Enter");
  assert.equal(await tab.evaluate(() => document.activeElement.id), "text");
  await say(tab, "#text", "hi");
  const headOf = (tab) => tab.locator(".message-head").evaluate((head) => [...head.children].map((node) => node.textContent).slice(0, -1));
  await waitForText(other, ".message-text", "hi");
  assert.deepEqual(await headOf(other), ["Ben", "guest"]);
  await waitForText(tab, ".message-text", "hi");
  assert.deepEqual(await headOf(tab), ["Ben", "guest", "you"]);

  // The browser keeps the name, and the tab which messages are its own.
  await tab.reload();
  await waitForText(tab, ".message-text", "hi");
  assert.equal(await tab.inputValue("#nickname"), "Ben");
  assert.deepEqual(await headOf(tab), ["Ben", "guest", "you"]);

  // Another's copy of the message is not the visitor's own.
  const peer = await Peer.connect(t, server, "/ws/chat/names/");
  const { ref } = await peer.next("chat.message");
  peer.send({ message: "a copy", nickname: "Ben", ref });
  await waitForText(tab, ".message-text", "a copy");
  assert.deepEqual(await tab.locator(".own .message-text").allTextContents(), ["hi"]);

  await tab.fill("#nickname", "Be\u202en");
  await say(tab, "#text", "not this");
  await tab.waitForFunction(() => document.getElementById("notice-text").textContent.startsWith("expected a nickname"));
  assert.equal(await tab.inputValue("#text"), "not this");
  for (const each of [tab, other]) assert.deepEqual(each.errors, []);
});

test("addresses in a text are found, and nothing that only looks like one", () => {
  const check = (text, ...links) =>
    assert.deepEqual(partsOf(text).filter(({ href }) => href !== null).map(({ text }) => text), links, text);
  check("see https://example.org/a?b=c#d, and http://localhost:8000.", "https://example.org/a?b=c#d", "http://localhost:8000");
  check("(https://example.org/a)", "https://example.org/a");
  check("https://example.org/a_(b) and https://example.org/c_(d)).", "https://example.org/a_(b)", "https://example.org/c_(d)");
  check("HTTPS://EXAMPLE.ORG/!", "HTTPS://EXAMPLE.ORG/");
  check('<a href="https://example.org/x">', "https://example.org/x");
  check("https://пример.рф/путь", "https://пример.рф/путь");
  for (const text of [
    "javascript:alert(1)",
    "data:text/html,x",
    "ftp://example.org/",
    "xhttps://example.org/",
    "https://",
    "https://.",
    "https://bank.example@evil.example/",
    "https://user:password@evil.example/",
    "https://[::1",
    "http:/example.org",
  ]) {
    check(text);
  }
  for (const text of ["", "a", "https://a.b https://c.d", "x https://a.b, y\nhttps://c.d"]) {
    assert.equal(partsOf(text).map(({ text }) => text).join(""), text);
  }
  partsOf(`https://a/${")".repeat(100_000)}`);
});

test("addresses in a message are links, which tell the other site nothing", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/links/`);
  const text = 'look: https://example.org/?a=<b>&c="d" or javascript:alert(1)';
  await say(tab, "#text", text);
  await waitForText(tab, ".message-text", text);
  const links = await tab.locator(".message-text a").evaluateAll((nodes) => nodes.map(({ href, rel, target }) => ({ href, rel, target })));
  assert.deepEqual(links, [{ href: "https://example.org/?a=", rel: "noopener noreferrer nofollow ugc", target: "_blank" }]);
  assert.deepEqual(tab.errors, []);
});

test("messages of another day follow its date", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const peer = await Peer.connect(t, server, "/ws/chat/days/");
  peer.send({ message: "then" });
  const { at } = await peer.next("chat.message");
  const today = await openRoom(context, `${server.origin}/chat/days/`);
  await waitForText(today, ".message-text", "then");
  assert.equal(await today.locator(".day").count(), 0);
  await context.clock.setFixedTime(new Date(Date.parse(at) + 2 * 86_400_000));
  const later = await openRoom(context, `${server.origin}/chat/days/`);
  await waitForText(later, ".message-text", "then");
  const shown = await later.evaluate((at) => new Intl.DateTimeFormat(undefined, { dateStyle: "full" }).format(new Date(at)), at);
  assert.deepEqual(await later.locator("#log > *").evaluateAll((nodes) => nodes.slice(0, 2).map((node) => node.className)), ["day", "message"]);
  assert.equal(await later.textContent(".day"), shown);
});

test("messages that come while the tab is hidden are counted in its title", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/unread/`);
  const peer = await Peer.connect(t, server, "/ws/chat/unread/");
  const show = (isShown) =>
    tab.evaluate((isShown) => {
      Object.defineProperty(document, "hidden", { configurable: true, value: !isShown });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isShown);
  const title = await tab.title();
  await show(false);
  for (const message of ["one", "two"]) peer.send({ message });
  await waitForText(tab, ".message-text", "two");
  assert.equal(await tab.title(), `(2) ${title}`);
  await show(true);
  assert.equal(await tab.title(), title);
});

test("what was said before a tab was opened, and what its visitor says, is not counted", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const peer = await Peer.connect(t, server, "/ws/chat/history/");
  peer.send({ message: "old" });
  await peer.next("chat.message");
  await sleep(5);
  await context.addInitScript(() => Object.defineProperty(document, "hidden", { configurable: true, value: true }));
  const tab = await openTab(context, `${server.origin}/chat/history/`);
  await waitForStatus(tab, "Connected");
  await waitForText(tab, ".message-text", "old");
  const title = await tab.title();
  assert.doesNotMatch(title, /^\(/);
  await say(tab, "#text", "mine");
  await waitForText(tab, ".message-text", "mine");
  assert.equal(await tab.title(), title);
  peer.send({ message: "new" });
  await waitForText(tab, ".message-text", "new");
  assert.equal(await tab.title(), `(1) ${title}`);
});

test("behind a proxy without WebSockets the room can be read", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const proxy = await Proxy.start(t, server, { refusesUpgrades: true });
  const peer = await Peer.connect(t, server, "/ws/chat/proxy/");
  peer.send({ message: "before" });
  await peer.next("chat.message");
  const tab = await openTab(context, `${proxy.origin}/chat/proxy/`);
  await waitForStatus(tab, "Connected, read only");
  await waitForText(tab, ".message-text", "before");
  peer.send({ message: "after" });
  await waitForText(tab, ".message-text", "after");
  await tab.fill("#text", "not sent");
  assert.equal(await tab.isDisabled("#send"), true);
  proxy.refusesUpgrades = false;
  await tab.waitForFunction(() => document.getElementById("status").textContent === "Connected");
  await tab.press("#text", "Enter");
  await peer.next("chat.message", ({ message }) => message === "not sent");
});

test("the front page leads to what else there is", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/`);
  const links = await tab.locator(".more a").evaluateAll((nodes) => nodes.map((node) => node.getAttribute("href")));
  assert.deepEqual(links.slice(0, 3), ["/events/lobby/", "/dashboard/", "/metrics"]);
  assert.match(links[3], /^https:\/\/.*\/docs$/);
  for (const [link, status] of [["/events/lobby/", 200], ["/dashboard/", 302], ["/metrics", 200]]) {
    const response = await fetch(server.origin + link, { redirect: "manual", headers: { accept: "text/html" } });
    await response.body?.cancel();
    assert.equal(response.status, status, link);
  }
});

test("a page that is not there is a page, for visitors", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/chat/no%20slug/`);
  await waitForText(tab, "h1", "Not Found");
  assert.doesNotMatch(await tab.textContent("main"), /oneport|command|configuration/i);
  await tab.click("text=To the front page");
  await tab.waitForURL(`${server.origin}/`);
});

test("phone and desktop, light and dark, fit their screens", LIMIT, async (t) => {
  const { server, browser } = await start(t);
  const peer = await Peer.connect(t, server, "/ws/chat/tea-break/");
  peer.send({ message: "Is there any cake left?" });
  peer.send({ message: "Two pieces. I put them beside the kettle, with a note on them so that nobody takes them for the leftovers of last week." });
  peer.send({ message: `https://example.org/${"a-long-address-without-a-break/".repeat(4)}` });
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ viewport, colorScheme });
      const width = (tab) => tab.evaluate(() => document.documentElement.scrollWidth);
      const index = await openTab(context, `${server.origin}/`);
      assert.equal(await width(index), viewport.width);
      await index.screenshot({ path: screenshotPath(`index-${size}-${colorScheme}`), fullPage: true });
      const room = await openRoom(context, `${server.origin}/chat/tea-break/`);
      await waitForText(room, ".message-text", "Is there any cake left?");
      await waitForText(room, "#members", "2 here");
      assert.equal(await width(room), viewport.width);
      assert.ok(await room.locator("#send").evaluate((node) => node.getBoundingClientRect().bottom <= innerHeight));
      await room.screenshot({ path: screenshotPath(`room-${size}-${colorScheme}`) });
      await room.close();
      await peer.next("chat.leave", ({ members }) => members === 1);
      await context.close();
    }
  }
});
