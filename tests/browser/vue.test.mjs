/** The Vue example as `npm run build` makes it, served by its own configuration. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openTab, say, screenshotPath, startBrowser, waitForStatus, waitForText } from "./browser.mjs";
import { Peer } from "./peer.mjs";
import { ROOT, Server } from "./server.mjs";

const EXAMPLE = path.join(ROOT, "examples/vue");
const FIELD = "[aria-label=Message]";
const LIMIT = { timeout: 90_000 };

async function start(t) {
  assert.ok(
    existsSync(path.join(EXAMPLE, "dist/index.html")),
    "expected examples/vue/dist, found none: run `npm ci && npm run build` in examples/vue",
  );
  const server = await Server.start(t, { config: path.join(EXAMPLE, "oneport.toml") });
  const browser = await startBrowser(t);
  const context = await browser.newContext({ viewport: { width: 360, height: 740 } });
  return { server, context };
}

async function openApp(context, server) {
  const tab = await openTab(context, `${server.origin}/`);
  await waitForStatus(tab, "connected");
  return tab;
}

test("the component connects when it is mounted, and hears and is heard", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openApp(context, server);
  assert.equal(new URL(tab.url()).pathname, "/vue/");
  const peer = await Peer.connect(t, server, "/ws/chat/lobby/");
  await waitForText(tab, "[data-test=members]", "2 here");
  peer.send({ message: "from <b>ws</b>" });
  await waitForText(tab, ".log p", "from <b>ws</b>");
  await say(tab, FIELD, "from Vue");
  await peer.next("chat.message", ({ message }) => message === "from Vue");
  assert.equal(await tab.evaluate(() => document.documentElement.scrollWidth), 360);
  await tab.screenshot({ path: screenshotPath("vue-phone") });
  assert.deepEqual(tab.errors, []);
});

test("what was built may be kept by a browser for good, the page may not", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, "about:blank");
  const kept = [];
  tab.on("response", (response) => kept.push([new URL(response.url()).pathname, response.headers()["cache-control"]]));
  await tab.goto(`${server.origin}/vue/`);
  await waitForStatus(tab, "connected");
  assert.equal(new Map(kept).get("/vue/"), "no-cache");
  const assets = kept.filter(([file]) => file.startsWith("/vue/assets/"));
  assert.ok(assets.length >= 2);
  for (const [file, value] of assets) assert.match(value, /immutable/, file);
});

test("the component comes back after the server was restarted", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openApp(context, server);
  await say(tab, FIELD, "before");
  await waitForText(tab, ".log p", "before");
  await server.stop();
  await waitForStatus(tab, "reconnecting");
  await server.start();
  await waitForStatus(tab, "connected");
  const peer = await Peer.connect(t, server, "/ws/chat/lobby/");
  peer.send({ message: "after" });
  await waitForText(tab, ".log p", "after");
  assert.deepEqual(await tab.locator(".log p").allTextContents(), ["before", "after"]);
});

test("the component closes its socket when it is unmounted", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const peer = await Peer.connect(t, server, "/ws/chat/lobby/");
  const tab = await openApp(context, server);
  await peer.next("chat.join", ({ members }) => members === 2);
  await tab.click("text=Leave");
  await peer.next("chat.leave", ({ members }) => members === 1);
  await tab.waitForSelector("[data-test=left]");
  // It reconnects when it is mounted again, and not before.
  await tab.click("nav >> text=lobby");
  await peer.next("chat.join", ({ members }) => members === 2);
});

test("the component moves to another socket when its room changes", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const lobby = await Peer.connect(t, server, "/ws/chat/lobby/");
  const help = await Peer.connect(t, server, "/ws/chat/help/");
  const tab = await openApp(context, server);
  await lobby.next("chat.join", ({ members }) => members === 2);
  lobby.send({ message: "in the lobby" });
  await waitForText(tab, ".log p", "in the lobby");
  await tab.click("nav >> text=help");
  await lobby.next("chat.leave", ({ members }) => members === 1);
  await help.next("chat.join", ({ members }) => members === 2);
  help.send({ message: "how can we help?" });
  await waitForText(tab, ".log p", "how can we help?");
  assert.deepEqual(await tab.locator(".log p").allTextContents(), ["how can we help?"]);
});
