/** The demo over https and wss, with the certificate of `oneport dev-cert` and a browser that trusts its CA as the command says. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openRoom, openTab, say, startBrowser, waitForStatus, waitForText } from "./browser.mjs";
import { DEADLINE_MS, until } from "./deadline.mjs";
import { ROOT, Server, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 120_000 };
const DEMO = readFileSync(path.join(ROOT, "config/oneport.toml"), "utf8");

/** Runs a program, and returns its output. */
function run(program, ...args) {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: "utf8", timeout: DEADLINE_MS });
  assert.equal(status, 0, `expected ${program} ${args.join(" ")} to end with 0:\n${stderr}`);
  return stdout;
}

/** Makes the certificate, starts the demo with it, and a browser that trusts its CA. */
async function start(t) {
  const config = temporaryConfig(t, "");
  const directory = path.dirname(config);
  const certificates = path.join(directory, "tls");
  const devCert = (...names) => run(process.env.ONEPORT_BIN, "dev-cert", certificates, ...names);
  const [, name] = /-n '([^']+)'/.exec(devCert());
  const section = `[server.tls]\ncertificate = "tls/cert.pem"\nkey = "tls/key.pem"\nhsts = "1d"\n`;
  const demo = DEMO.replaceAll("../templates", path.join(ROOT, "templates")).replace(`"localhost", `, `"localhost", "chat.test", `);
  writeFileSync(config, `${demo}\n${section}`);
  const server = await Server.start(t, { config });

  const nssdb = path.join(directory, ".pki/nssdb");
  mkdirSync(nssdb, { recursive: true });
  run("certutil", "-d", `sql:${nssdb}`, "-N", "--empty-password");
  run("certutil", "-d", `sql:${nssdb}`, "-A", "-t", "C,,", "-n", name, "-i", path.join(certificates, "ca.pem"));
  const args = [`--host-resolver-rules=MAP chat.test 127.0.0.1`];
  const browser = await startBrowser(t, { args, env: { ...process.env, HOME: directory } });
  const origin = `https://localhost:${server.port}`;
  return { server, devCert, origin, browser, context: await browser.newContext() };
}

test("a plain URL leads to https, and two tabs of a room hear each other over wss", LIMIT, async (t) => {
  const { server, origin, context } = await start(t);
  const anna = await openRoom(context, `http://localhost:${server.port}/chat/lobby/`);
  assert.equal(anna.url(), `${origin}/chat/lobby/`);
  assert.ok(await anna.evaluate(() => isSecureContext));
  const protocols = await anna.evaluate(() => performance.getEntries().map((entry) => entry.nextHopProtocol ?? ""));
  const used = new Set(protocols.filter(Boolean));
  assert.deepEqual([...used], ["h2"]);

  const ben = await openRoom(context, `${origin}/chat/lobby/`);
  await waitForText(anna, "#members", "2 here");
  const long = "grüße ☕ ".repeat(400).trim();
  await say(anna, "#text", long);
  await waitForText(ben, ".message-text", long);
  await say(ben, "#text", "hi anna");
  await waitForText(anna, ".message-text", "hi anna");
  for (const tab of [anna, ben]) assert.deepEqual(tab.errors, []);
});

test("a tab is back in its room after a restart, with the history", LIMIT, async (t) => {
  const { server, origin, context } = await start(t);
  const tab = await openRoom(context, `${origin}/chat/lobby/`);
  await server.stop();
  await waitForStatus(tab, "Reconnecting");
  await server.start();
  await waitForStatus(tab, "Connected");
  await say(tab, "#text", "still here");
  await waitForText(tab, ".message-text", "still here");
});

test("a new certificate serves new names, and sockets stay open", LIMIT, async (t) => {
  const { server, devCert, origin, browser, context } = await start(t);
  const stays = await openRoom(context, `${origin}/chat/lobby/`);
  const other = `https://chat.test:${server.port}/chat/lobby/`;
  await assert.rejects(openTab(context, other), /ERR_CERT_COMMON_NAME_INVALID/);
  devCert("chat.test");
  let tab;
  const opens = async () => {
    // A new context has no connection of the old certificate.
    const fresh = await browser.newContext();
    try {
      tab = await openRoom(fresh, other);
      return true;
    } catch (error) {
      assert.match(String(error), /ERR_CERT_COMMON_NAME_INVALID/);
      await fresh.close();
      return false;
    }
  };
  await until(opens, "a page at the new name");
  await say(tab, "#text", "from the new name");
  await waitForText(stays, ".message-text", "from the new name");
  assert.deepEqual(stays.errors, []);
});
