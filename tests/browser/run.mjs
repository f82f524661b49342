/** Runs all browser tests, one file after another; exits with 1 if one fails. `node run.mjs [FILE...] [TEST...]` runs only those. */

import { runAll } from "../node_runner.mjs";

await runAll("browser", import.meta.dirname, 300_000);
