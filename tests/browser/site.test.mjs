/** A real Django site on one port, over TLS and HTTP/2, as docs/DJANGO.md sets it up: pages, forms, uploads, events, sockets. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { openTab, startBrowser } from "./browser.mjs";
import { within } from "./deadline.mjs";
import { ROOT } from "./server.mjs";

const LIMIT = { timeout: 180_000 };
const UPLOAD = 64 * 1024 * 1024;

/** Starts the site, and a browser that finds it at its name and trusts its certificate. */
async function start(t) {
  const python = process.env.PYTHON ?? path.join(ROOT, "target/venv/bin/python");
  const child = spawn(python, ["-m", "kit.django_site"], {
    cwd: path.join(ROOT, "tests/interop/python"),
    env: { ...process.env, ONEPORT_BIN: process.env.ONEPORT_BIN ?? path.join(ROOT, "target/debug/oneport") },
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(async () => {
    const exit = once(child, "exit");
    child.stdin.end();
    assert.deepEqual(await exit, [0, null]);
  });
  const [line] = await once(createInterface(child.stdout), "line");
  const site = { ...JSON.parse(line) };
  const certificate = new X509Certificate(readFileSync(path.join(site.directory, "tls/cert.pem")));
  const spki = createHash("sha256")
    .update(certificate.publicKey.export({ type: "spki", format: "der" }))
    .digest("base64");
  const args = [
    `--host-resolver-rules=MAP ${site.host}:443 127.0.0.1:${site.port}`,
    `--ignore-certificate-errors-spki-list=${spki}`,
  ];
  const browser = await startBrowser(t, { args });
  return { ...site, origin: `https://${site.host}`, context: await browser.newContext() };
}

test("an administrator logs in over https, with Django's own pages, styles and tokens", LIMIT, async (t) => {
  const site = await start(t);
  const tab = await openTab(site.context, `${site.origin}/admin/`);
  await tab.fill("#id_username", "anna");
  await tab.fill("#id_password", site.password);
  await tab.click("input[type=submit]");
  await tab.waitForSelector("#site-name");
  assert.equal(new URL(tab.url()).pathname, "/admin/");
  // The styles come from Oneport's own `static`: Django alone serves none.
  const header = await tab.$eval("#header", (node) => getComputedStyle(node).backgroundColor);
  assert.notEqual(header, "rgba(0, 0, 0, 0)");
  const protocols = await tab.evaluate(() => performance.getEntries().map((entry) => entry.nextHopProtocol ?? ""));
  assert.ok(protocols.filter(Boolean).every((protocol) => protocol === "h2"), protocols.join());
  assert.deepEqual(tab.errors, []);
});

test("an upload, a download, events and a socket of one page, all over HTTP/2 and TLS", LIMIT, async (t) => {
  const site = await start(t);
  const tab = await openTab(site.context, `${site.origin}/page/`);

  const uploaded = await tab.evaluate(async (size) => {
    const token = /csrftoken=([^;]+)/.exec(document.cookie)[1];
    const body = new Blob([new Uint8Array(size)]);
    const response = await fetch("/upload/", { method: "POST", headers: { "X-CSRFToken": token }, body });
    return [response.status, (await response.json()).size];
  }, UPLOAD);
  assert.deepEqual(uploaded, [200, UPLOAD]);

  const downloaded = await tab.evaluate(async (size) => {
    const response = await fetch(`/download/?bytes=${size}`);
    let count = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) return count;
      count += value.length;
    }
  }, UPLOAD);
  assert.equal(downloaded, UPLOAD);

  const late = await tab.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const source = new EventSource("/events/?count=3&pause=0.4");
        const late = [];
        source.onmessage = (event) => {
          late.push(Date.now() / 1000 - Number(event.data));
          if (late.length === 3) {
            source.close();
            resolve(late);
          }
        };
        source.onerror = () => reject(new Error("the stream failed"));
      }),
  );
  assert.ok(Math.max(...late) < 0.35, `events were held back: ${late}`);

  const heard = await within(
    tab.evaluate(
      () =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(`wss://${location.host}/ws/greet/`);
          const heard = [];
          socket.onmessage = ({ data }) => {
            heard.push(JSON.parse(data));
            if (heard.length === 1) socket.send(JSON.stringify({ text: "grüße ☕".repeat(20_000) }));
            if (heard.length === 2) socket.send(JSON.stringify({ close: 4321 }));
          };
          socket.onclose = ({ code, wasClean }) =>
            resolve({ hello: heard[0].hello, length: heard[1].text.length, code, wasClean });
          socket.onerror = () => reject(new Error("the socket failed"));
        }),
    ),
    "the end of the socket",
  );
  assert.deepEqual(heard, { hello: "", length: 140_000, code: 4321, wasClean: true });
  assert.deepEqual(tab.errors, []);
});
