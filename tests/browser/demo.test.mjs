/** The demo as it is shipped: `config/oneport.toml` and its pages, in Chromium. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openRoom, openTab, say, screenshotPath, startBrowser, waitForStatus, waitForText } from "./browser.mjs";
import { until } from "./deadline.mjs";
import { Peer } from "./peer.mjs";
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

test("a page that is not there is a page", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/chat/no%20slug/`);
  await waitForText(tab, "h1", "Not Found");
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
