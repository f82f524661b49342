/**
 * Node runner: runs the test files of a directory one after another.
 *
 * A failed test runs again by itself once all files have ended; if it passes then, it is listed as flaky and counts as passed.
 */

import { once } from "node:events";
import { readdirSync } from "node:fs";
import path from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";

// How many failed tests to run again. If more fail, the cause is not a race.
const AGAIN_MAX = 20;

/** Runs files, or only their tests of these names; returns the tests that ran and those that failed, each as `{ name, file }`. */
async function runFiles(files, timeout, names = []) {
  const patterns = names.map((name) => new RegExp(`^${name.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")}$`));
  const testNamePatterns = patterns.length > 0 ? patterns : undefined;
  const stream = run({ files, timeout, concurrency: false, testNamePatterns });
  const [ran, failed] = [[], []];
  for (const event of ["test:pass", "test:fail"]) {
    stream.on(event, ({ name, file, nesting, skip }) => {
      // Node reports tests that do not match the pattern as passed and skipped.
      if (nesting > 0 || skip !== undefined) return;
      ran.push({ name, file });
      if (event === "test:fail") failed.push({ name, file });
    });
  }
  const report = stream.compose(new spec());
  report.pipe(process.stdout, { end: false });
  await once(report, "end");
  return { ran, failed };
}

/** Runs one test by itself and returns whether it passes. Node reports a file that fails outside its tests as a test with its name. */
async function passesAgain({ name, file }, timeout) {
  const isFile = name === file;
  const { ran, failed } = await runFiles([file], timeout, isFile ? [] : [name]);
  return failed.length === 0 && ran.length > 0;
}

/**
 * Runs all `*.test.mjs` of a directory and sets the exit code. The command line selects files by name and,
 * with every other argument, tests by name: `node run.mjs echo.test.mjs "the name of a test"`.
 */
export async function runAll(group, directory, timeout) {
  const isFile = (argument) => argument.endsWith(".test.mjs");
  const asked = process.argv.slice(2).filter(isFile).map((file) => path.join(directory, path.basename(file)));
  const names = process.argv.slice(2).filter((argument) => !isFile(argument));
  const all = readdirSync(directory)
    .filter((name) => name.endsWith(".test.mjs"))
    .sort()
    .map((name) => path.join(directory, name));
  const { ran, failed } = await runFiles(asked.length > 0 ? asked : all, timeout, names);
  const lines = [];
  let failedTwice = 0;
  const again = failed.length > AGAIN_MAX ? [] : failed;
  if (again.length < failed.length) {
    console.log(`${failed.length} tests failed, more than ${AGAIN_MAX}: not run again`);
    failedTwice = failed.length;
  }
  for (const test of again) {
    const title = `${path.basename(test.file)} ${test.name === test.file ? "" : test.name}`.trim();
    console.log(`--- again: ${title}`);
    if (await passesAgain(test, timeout)) {
      lines.push(`FLAKY ${group} ${title}: failed, then passed`);
    } else {
      lines.push(`FAILED ${group} ${title}: failed twice`);
      failedTwice += 1;
    }
  }
  console.log([...lines, `=== Ran ${ran.length} tests, ${failedTwice} failed`].join("\n"));
  // A run without tests proves nothing.
  if (failedTwice > 0 || ran.length === 0) process.exitCode = 1;
}
