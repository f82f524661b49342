/** Runs all browser tests, one file after another; exits with 1 when one fails. `node run.mjs [FILE...]` runs only those. */

import { readdirSync } from "node:fs";
import path from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";

const here = import.meta.dirname;
const asked = process.argv.slice(2).map((file) => path.resolve(file));
const all = readdirSync(here)
  .filter((name) => name.endsWith(".test.mjs"))
  .sort()
  .map((name) => path.join(here, name));

let passed = 0;
const stream = run({ files: asked.length > 0 ? asked : all, concurrency: false, timeout: 300_000 });
stream.on("test:pass", () => (passed += 1));
stream.on("test:fail", () => (process.exitCode = 1));
stream.on("end", () => {
  // A run without tests proves nothing.
  if (passed === 0) process.exitCode = 1;
});
stream.compose(new spec()).pipe(process.stdout);
