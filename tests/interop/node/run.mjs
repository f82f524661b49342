/** Runs all tests with Node's clients, one file after another; exits with 1 if one fails. `node run.mjs [FILE...] [TEST...]` runs only those. */

import { runAll } from "../../node_runner.mjs";

await runAll("node", import.meta.dirname, 120_000);
