/** The React example as `npm run build` makes it, served by its own configuration. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openTab, say, screenshotPath, startBrowser, waitForStatus, waitForText } from "./browser.mjs";
import { Peer } from "./peer.mjs";
import { ROOT, Server } from "./server.mjs";

const EXAMPLE = path.join(ROOT, "examples/react");
const FIELD = "[aria-label=Message]";
const LIMIT = { timeout: 60_000 };

test("the component hears and is heard, survives a restart, changes rooms, and leaves", LIMIT, async (t) => {
  assert.ok(
    existsSync(path.join(EXAMPLE, "dist/index.html")),
    "expected examples/react/dist, found none: run `npm ci && npm run build` in examples/react",
  );
  const server = await Server.start(t, { config: path.join(EXAMPLE, "oneport.toml") });
  const browser = await startBrowser(t);
  const context = await browser.newContext({ viewport: { width: 360, height: 740 } });
  const tab = await openTab(context, `${server.origin}/`);
  await waitForStatus(tab, "connected");
  assert.equal(new URL(tab.url()).pathname, "/react/");

  const lobby = await Peer.connect(t, server, "/ws/chat/lobby/");
  await waitForText(tab, "[data-test=members]", "2 here");
  lobby.send({ message: "from <b>ws</b>" });
  await waitForText(tab, ".log p", "from <b>ws</b>");
  await say(tab, FIELD, "from React");
  await lobby.next("chat.message", ({ message }) => message === "from React");
  assert.equal(await tab.evaluate(() => document.documentElement.scrollWidth), 360);
  await tab.screenshot({ path: screenshotPath("react-phone") });
  assert.deepEqual(tab.errors, []);

  await server.kill();
  await waitForStatus(tab, "reconnecting");
  await server.start();
  await waitForStatus(tab, "connected");
  assert.deepEqual(await tab.locator(".log p").allTextContents(), ["from <b>ws</b>", "from React"]);

  const help = await Peer.connect(t, server, "/ws/chat/help/");
  const again = await Peer.connect(t, server, "/ws/chat/lobby/");
  await tab.click("nav >> text=help");
  await again.next("chat.leave", ({ members }) => members === 1);
  await help.next("chat.join", ({ members }) => members === 2);
  help.send({ message: "how can we help?" });
  await waitForText(tab, ".log p", "how can we help?");
  assert.deepEqual(await tab.locator(".log p").allTextContents(), ["how can we help?"]);
  await tab.click("text=Leave");
  await help.next("chat.leave", ({ members }) => members === 1);
  await tab.waitForSelector("[data-test=left]");
});
