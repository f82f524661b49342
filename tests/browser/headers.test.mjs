/** The header fields of the pages, in Chromium: they work under their own policy, which blocks anything else. */

import assert from "node:assert/strict";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";
import { openRoom, openTab, say, startBrowser, waitForText } from "./browser.mjs";
import { ROOT, Server, freePort } from "./server.mjs";

const CONFIG = path.join(ROOT, "config/oneport.toml");
const LIMIT = { timeout: 90_000 };
const POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

test("every page of the demo sends its policy and keeps to it", LIMIT, async (t) => {
  const server = await Server.start(t, { config: CONFIG });
  const context = await (await startBrowser(t)).newContext();
  for (const [page, status] of [["/", 200], ["/chat/policy/", 200], ["/login/", 200], ["/missed/", 404]]) {
    const answer = await fetch(server.origin + page, { headers: { accept: "text/html" } });
    assert.equal(answer.status, status, page);
    const fields = ["content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options"];
    assert.deepEqual(fields.map((name) => answer.headers.get(name)), [POLICY, "nosniff", "same-origin", "DENY"], page);
    const tab = await openTab(context, server.origin + page);
    await tab.waitForLoadState("networkidle");
    const missed = status === 404 ? ["Failed to load resource: the server responded with a status of 404 (Not Found)"] : [];
    assert.deepEqual(tab.errors, missed, page);
    await tab.close();
  }
  // Its socket, and the same room as an event stream, are of its own host.
  const tab = await openRoom(context, `${server.origin}/chat/policy/`);
  await tab.evaluate(() => {
    window.heard = new Promise((resolve) => {
      const stream = new EventSource("/events/policy/");
      stream.onopen = () => (window.isOpen = true);
      stream.onmessage = ({ data }) => resolve(JSON.parse(data).message);
    });
  });
  await tab.waitForFunction(() => window.isOpen);
  await say(tab, "#text", "under a policy");
  await waitForText(tab, ".message-text", "under a policy");
  assert.equal(await tab.evaluate(() => window.heard), "under a policy");
  assert.deepEqual(tab.errors, []);
});

test("a script that is not the page's own does not run", LIMIT, async (t) => {
  const server = await Server.start(t, { config: CONFIG });
  const context = await (await startBrowser(t)).newContext();
  const tab = await openTab(context, `${server.origin}/`);
  await tab.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.attacked = 1";
    document.body.append(script);
    const link = document.createElement("a");
    link.setAttribute("onclick", "window.attacked = 1");
    document.body.append(link);
    link.click();
  });
  assert.equal(await tab.evaluate(() => window.attacked), undefined);
  assert.ok(tab.errors.some((error) => error.includes("Content Security Policy")), tab.errors.join("\n"));
});

test("no page of the demo is shown in another site's frame", LIMIT, async (t) => {
  const server = await Server.start(t, { config: CONFIG });
  const port = await freePort();
  const frames = ["/", "/chat/frame/", "/login/", "/missed/"].map((page) => `<iframe src="${server.origin}${page}"></iframe>`);
  const site = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end(`<!doctype html>${frames.join("")}`);
  });
  await new Promise((resolve) => site.listen(port, "127.0.0.1", resolve));
  t.after(() => site.close());
  const context = await (await startBrowser(t)).newContext();
  const tab = await openTab(context, `http://127.0.0.1:${port}/`);
  await tab.waitForLoadState("networkidle");
  // Chromium shows a page of its own in their place.
  assert.deepEqual(tab.frames().slice(1).map((frame) => new URL(frame.url()).protocol), frames.map(() => "chrome-error:"));
  assert.equal(tab.errors.filter((error) => error.includes("frame-ancestors")).length, frames.length, tab.errors.join("\n"));
});
