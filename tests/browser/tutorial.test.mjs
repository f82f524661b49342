/** The chat of the Channels tutorial: one short page and the example's binary. */

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { openTab, say, startBrowser } from "./browser.mjs";
import { ROOT, Server } from "./server.mjs";

const CONFIG = path.join(ROOT, "examples/tutorial.toml");
const LIMIT = { timeout: 60_000 };

const waitForLog = (tab, text) => tab.waitForFunction((text) => document.getElementById("log").value === text, text);

test("two tabs of the tutorial's room hear each other, another room does not", LIMIT, async (t) => {
  const server = await Server.start(t, { variable: "TUTORIAL_BIN", config: CONFIG });
  const context = await (await startBrowser(t)).newContext();
  const [one, two, other] = [
    await openTab(context, `${server.origin}/chat/lobby/`),
    await openTab(context, `${server.origin}/chat/lobby/`),
    await openTab(context, `${server.origin}/chat/elsewhere/`),
  ];
  for (const tab of [one, two, other]) await waitForLog(tab, "(connected)\n");
  await say(one, "#text", "hello & <b>welcome</b>");
  for (const tab of [one, two]) await waitForLog(tab, "(connected)\nhello & <b>welcome</b>\n");
  await say(two, "#text", "thanks");
  for (const tab of [one, two]) await waitForLog(tab, "(connected)\nhello & <b>welcome</b>\nthanks\n");
  await waitForLog(other, "(connected)\n");
  for (const tab of [one, two, other]) assert.deepEqual(tab.errors, []);
});

test("the tutorial's page says that the server went down, and comes back", LIMIT, async (t) => {
  const server = await Server.start(t, { variable: "TUTORIAL_BIN", config: CONFIG });
  const context = await (await startBrowser(t)).newContext();
  const tab = await openTab(context, `${server.origin}/chat/lobby/`);
  await waitForLog(tab, "(connected)\n");
  await server.stop();
  await waitForLog(tab, "(connected)\n(closed: 1001)\n");
  await server.start();
  await waitForLog(tab, "(connected)\n(closed: 1001)\n(connected)\n");
});
