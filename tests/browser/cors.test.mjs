/** The middleware `cors`: what a page of another origin gets in Chromium, which asks first and keeps answers back. */

import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { openTab, startBrowser } from "./browser.mjs";
import { Server, freePort, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 90_000 };
const TOKEN = "a-token-of-this-test";

const config = (origin) => `
[http]
middleware = ["hosts", "cors"]
allowed_origins = ["${origin}"]

[[http.route]]
path = "/events/{room:slug}/"
view = "events"
options = { group = "chat_{room}", history = 50, retry = "100ms" }

[[http.route]]
path = "/api/{*call}"
view = "publish"
options = { tokens = [{ name = "test", token = "${TOKEN}", groups = ["*"] }] }

[[http.route]]
path = "/closed/"
view = "health"
middleware = ["hosts"]
`;

/** Starts a site of one empty page; returns its origin. */
async function startSite(t) {
  const port = await freePort();
  const site = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end('<!doctype html><link rel="icon" href="data:,">');
  });
  await new Promise((resolve) => site.listen(port, "127.0.0.1", resolve));
  t.after(() => site.close());
  return `http://127.0.0.1:${port}`;
}

const publish = (tab, server, token = TOKEN) =>
  tab.evaluate(
    async ([url, token]) => {
      try {
        const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
        const answer = await fetch(url, { method: "POST", headers, body: '{"type":"chat.message","message":"hi"}' });
        return answer.status;
      } catch (error) {
        return String(error);
      }
    },
    [`${server.origin}/api/groups/chat_lobby`, token],
  );

test("a page of an allowed origin hears events and publishes them, and reads why it was refused", LIMIT, async (t) => {
  const origin = await startSite(t);
  const server = await Server.start(t, { config: temporaryConfig(t, config(origin)) });
  const tab = await openTab(await (await startBrowser(t)).newContext(), origin);
  await tab.evaluate((url) => {
    const stream = new EventSource(url);
    window.heard = [];
    stream.onopen = () => (window.opened = (window.opened ?? 0) + 1);
    stream.onmessage = ({ data }) => window.heard.push(JSON.parse(data).message);
  }, `${server.origin}/events/lobby/`);
  await tab.waitForFunction(() => window.opened === 1);
  assert.equal(await publish(tab, server), 200);
  await tab.waitForFunction(() => window.heard.length === 1);
  assert.equal(await publish(tab, server, "another-token-of-this-test"), 401);
  assert.deepEqual(await tab.evaluate(() => window.heard), ["hi"]);
});

test("a page of another origin hears nothing and publishes nothing", LIMIT, async (t) => {
  const [allowed, origin] = [await startSite(t), await startSite(t)];
  const server = await Server.start(t, { config: temporaryConfig(t, config(allowed)) });
  const context = await (await startBrowser(t)).newContext();
  const tab = await openTab(context, origin);
  assert.match(await publish(tab, server), /Failed to fetch/);
  const isRefused = await tab.evaluate(
    (url) => new Promise((resolve) => Object.assign(new EventSource(url), { onopen: () => resolve(false), onerror: () => resolve(true) })),
    `${server.origin}/events/lobby/`,
  );
  assert.ok(isRefused);
  // Without `cors` on the route, no other origin can read.
  const other = await openTab(context, allowed);
  const closed = (url) => fetch(url).then(() => true, () => false);
  assert.equal(await other.evaluate(closed, `${server.origin}/closed/`), false);
});
