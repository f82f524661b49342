/** `npm run build`: the module in one file, its types, the licenses beside them, and the copy that the demo serves. */

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { buildSync } from "esbuild";

const HERE = import.meta.dirname;
const { name, version, license } = JSON.parse(readFileSync(path.join(HERE, "package.json"), "utf8"));

/** Returns the module in one file. */
export function bundled() {
  const { outputFiles } = buildSync({
    entryPoints: [path.join(HERE, "src/index.js")],
    absWorkingDir: HERE,
    bundle: true,
    format: "esm",
    minify: true,
    target: "es2022",
    banner: { js: `/*! ${name} ${version}, ${license} */` },
    write: false,
  });
  return outputFiles[0].text;
}

/** The same file, for pages that are built by nothing. */
export const DEMO_FILE = path.join(HERE, "../templates/static/oneport.js");

if (process.argv[1] === import.meta.filename) {
  mkdirSync(path.join(HERE, "dist"), { recursive: true });
  writeFileSync(path.join(HERE, "dist/oneport.js"), bundled());
  writeFileSync(DEMO_FILE, bundled());
  for (const name of ["LICENSE-APACHE", "LICENSE-MIT"]) copyFileSync(path.join(HERE, "..", name), path.join(HERE, name));
  execFileSync(path.join(HERE, "node_modules/.bin/tsc"), ["--project", HERE], { stdio: "inherit" });
}
