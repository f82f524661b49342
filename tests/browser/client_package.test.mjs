/** The client as a package: its size, its files, its types, and the copy that the demo serves. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { bundled, DEMO_FILE } from "../../client/build.mjs";
import { ROOT } from "./server.mjs";

const CLIENT = path.join(ROOT, "client");
const LIMIT = { timeout: 90_000 };
const GZIPPED_MAX = 3 * 1024;

const manifest = JSON.parse(readFileSync(path.join(CLIENT, "package.json"), "utf8"));

test("the file that the demo serves is what the source builds to", () => {
  const hint = "run `npm ci && npm run build` in client/";
  assert.equal(readFileSync(DEMO_FILE, "utf8"), bundled(), hint);
});

test("the module is small, and imports nothing", () => {
  const built = bundled();
  const size = gzipSync(built, { level: 9 }).length;
  assert.ok(size <= GZIPPED_MAX, `expected at most ${GZIPPED_MAX} bytes, found ${size}`);
  assert.doesNotMatch(built, /\bimport\b|\brequire\b|\beval\b|innerHTML/);
});

test("the manifest has no dependency, and the server's version", () => {
  const [, version] = /^version = "(.*)"$/m.exec(readFileSync(path.join(ROOT, "Cargo.toml"), "utf8"));
  assert.equal(manifest.version, version);
  assert.ok(bundled().startsWith(`/*! oneport-client ${version}, `));
  for (const kind of ["dependencies", "peerDependencies", "optionalDependencies"]) assert.equal(manifest[kind], undefined);
  assert.equal(manifest.sideEffects, false);
});

test("the package has the module, its types, what to read, and nothing else", LIMIT, () => {
  const output = execFileSync("npm", ["pack", "--dry-run", "--json", "--silent"], { cwd: CLIENT, encoding: "utf8" });
  const said = JSON.parse(output);
  const [{ name, files }] = Array.isArray(said) ? said : Object.values(said);
  assert.equal(name, "oneport-client");
  const types = ["connection", "index", "retry", "ticket"].map((name) => `dist/${name}.d.ts`);
  assert.deepEqual(
    files.map(({ path }) => path).sort(),
    ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "dist/oneport.js", "package.json", ...types].sort(),
  );
  const [exported] = [manifest.exports["."]];
  for (const file of Object.values(exported)) assert.ok(files.some(({ path: found }) => `./${found}` === file), file);
});

const USES = `
import { connect, Connection, fetchTicket, type Options } from "oneport-client";
const options: Options = { events: "/events/", hiddenMs: 1, ticket: () => fetchTicket("/ticket/") };
const connection: Connection = connect(new URL("https://localhost/"), options);
const off: () => void = connection.on("status", ({ status, transport, code }) => {
  const isOpen: boolean = status === "open" && transport === "events" && code === null;
  void isOpen;
});
connection.on("presence", ({ members }) => void (members === null || members.toFixed()));
connection.on("event", (event) => void event["message"]);
connection.on("gap", () => off());
const sent: boolean = connection.send({ a: 1 });
const position: string | null = connection.position;
void [sent, position];
// @ts-expect-error: there is no such event
connection.on("messages", () => {});
// @ts-expect-error: there is no such option
connect("/", { event: "/events/" });
// @ts-expect-error: a status is not any text
void (connection.status === "opened");
// @ts-expect-error: the position is read only
connection.position = "1f.1";
`;

test("the source and the types are strict, and a program in TypeScript finds them", LIMIT, (t) => {
  const tsc = path.join(CLIENT, "node_modules/.bin/tsc");
  execFileSync(tsc, ["--project", CLIENT], { cwd: CLIENT, stdio: "inherit" });
  // Below the package, which is then found by its own name, by its `exports`.
  const directory = mkdtempSync(path.join(CLIENT, "dist/uses-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(path.join(directory, "uses.ts"), USES);
  const compilerOptions = { noEmit: true, strict: true, module: "nodenext", target: "es2022", lib: ["es2022", "dom"], types: [] };
  writeFileSync(path.join(directory, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["uses.ts"] }));
  execFileSync(tsc, ["--project", directory], { cwd: directory, stdio: "inherit" });
});
