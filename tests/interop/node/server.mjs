/** Server: the process under test, on a free port, with a configuration of its own; ended by its own handle. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { until, within } from "./deadline.mjs";

const ROOT = path.resolve(import.meta.dirname, "../../..");

const WATCHED = `
[[http.route]]
path = "/health/"
view = "health"

[[http.route]]
path = "/metrics"
view = "metrics"
`;

export class Server {
  #child;
  #log = "";

  /** Starts a server, and asks it to end when the test ends: it must, with 0. */
  static async start(t, config) {
    const binary = path.resolve(process.env.ONEPORT_BIN ?? path.join(ROOT, "target/debug/oneport"));
    assert.ok(existsSync(binary), `expected ONEPORT_BIN to name a binary, found no file at ${binary}`);
    const directory = mkdtempSync(path.join(tmpdir(), "oneport-test-"));
    const file = path.join(directory, "oneport.toml");
    writeFileSync(file, config + WATCHED);
    const server = new Server();
    t.after(async () => {
      try {
        await server.stop();
      } finally {
        server.#child?.kill("SIGKILL");
        rmSync(directory, { recursive: true, force: true });
      }
    });
    await server.#start(binary, file);
    return server;
  }

  async #start(binary, file) {
    this.#child = spawn(binary, ["serve", "--config", file, "--bind", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => (this.#log = (this.#log + text).slice(-100_000)));
    }
    const listens = () => {
      assert.equal(this.#child.exitCode, null, `the server ended before it listened:\n${this.#log}`);
      return /listens at http:\/\/127\.0\.0\.1:(\d+)/.exec(this.#log);
    };
    const port = (await until(listens, "a server that listens"))[1];
    this.host = `127.0.0.1:${port}`;
    this.origin = `http://${this.host}`;
    await until(async () => (await fetch(`${this.origin}/health/`)).ok, "a healthy server");
  }

  /** Asks the server to end, as an operator does. */
  async stop() {
    if (this.#child === undefined || this.#child.exitCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    const [code, signal] = await within(exit, "the end of the server after SIGTERM");
    assert.deepEqual([code, signal], [0, null], this.#log);
  }

  /** Asks the server to end, and does not wait for it. */
  terminate() {
    this.#child.kill("SIGTERM");
  }

  /** Returns the sum of a metric over all its label sets; 0 if there is none. */
  async metric(name) {
    const text = await (await fetch(`${this.origin}/metrics`)).text();
    return text
      .split("\n")
      .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }
}
