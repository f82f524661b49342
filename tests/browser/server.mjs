/** Server: the process under test. Each test starts its own, on a free port, and ends it by its own handle. */

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { DEADLINE_MS, until, within } from "./deadline.mjs";

export const ROOT = path.resolve(import.meta.dirname, "../..");

const LOG_CHARACTERS_MAX = 4_000;

/** A server that can be stopped, killed and started again at the same address. */
export class Server {
  #command;
  #child = null;
  #log = "";

  constructor(command, config, port) {
    this.#command = [command, "serve", "--config", config, "--bind", `127.0.0.1:${port}`];
    this.port = port;
    this.origin = `http://127.0.0.1:${port}`;
  }

  /** Starts the binary that an environment variable names, and ends it when the test ends. */
  static async start(t, { variable = "ONEPORT_BIN", config, port = null }) {
    const server = new Server(binary(variable), config, port ?? (await freePort()));
    t.after(() => server.kill());
    await server.start();
    return server;
  }

  async start() {
    assert.equal(this.#child, null, "the server runs already");
    const [program, ...args] = this.#command;
    const child = spawn(program, args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
    const keep = (text) => (this.#log = (this.#log + text).slice(-LOG_CHARACTERS_MAX));
    child.stdout.setEncoding("utf8").on("data", keep);
    child.stderr.setEncoding("utf8").on("data", keep);
    child.on("error", (error) => keep(`${error}\n`));
    this.#child = child;
    const listens = async () => {
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) {
        throw new Error(`the server ended before it listened:\n${this.#log}`);
      }
      return accepts(this.port);
    };
    await until(listens, `a server at ${this.origin}`);
  }

  /** Asks the server to end, as an operator does; fails when it does not, or not with 0. */
  async stop() {
    assert.equal(await this.#end("SIGTERM"), 0, `expected exit code 0 after SIGTERM:\n${this.#log}`);
  }

  /** Ends the server without a word to its clients. */
  async kill() {
    await this.#end("SIGKILL");
  }

  async #end(signal) {
    const child = this.#child;
    if (child === null) return 0;
    this.#child = null;
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return child.exitCode;
    const exit = once(child, "exit");
    child.kill(signal);
    try {
      return (await within(exit, `the server to end after ${signal}`, DEADLINE_MS))[0];
    } catch (error) {
      child.kill("SIGKILL");
      throw new Error(`${error.message}:\n${this.#log}`);
    }
  }
}

/** Writes a configuration into a directory of its own, which goes when the test ends; returns the file. */
export function temporaryConfig(t, text) {
  const directory = mkdtempSync(path.join(tmpdir(), "oneport-test-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const file = path.join(directory, "oneport.toml");
  writeFileSync(file, text);
  return file;
}

/** Runs `oneport user`, as an operator does; `input` is what it reads, such as a password. */
export function runUser(config, args, input = "") {
  const { status, stderr } = spawnSync(binary("ONEPORT_BIN"), ["user", ...args, "--config", config], {
    input,
    encoding: "utf8",
    timeout: DEADLINE_MS,
  });
  assert.equal(status, 0, `expected oneport user ${args.join(" ")} to end with 0:\n${stderr}`);
}

function binary(variable) {
  const value = process.env[variable];
  assert.ok(value, `expected ${variable} to name a binary, found nothing`);
  const file = path.resolve(value);
  assert.ok(existsSync(file), `expected ${variable} to name a binary, found no file at ${file}`);
  return file;
}

/** Returns a free port, for a configuration that has to know it. */
export async function freePort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: "127.0.0.1" });
    const answer = (isOpen) => {
      socket.destroy();
      resolve(isOpen);
    };
    socket.once("connect", () => answer(true));
    socket.once("error", () => answer(false));
    socket.setTimeout(1_000, () => answer(false));
  });
}
