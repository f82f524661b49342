/** Deadline: no wait without an end. */

import { setTimeout as sleep } from "node:timers/promises";

/** The default deadline of every wait. */
export const DEADLINE_MS = 20_000;

/** Returns what the promise resolves to, or fails with what was waited for. */
export async function within(promise, what, deadlineMs = DEADLINE_MS) {
  const timer = new AbortController();
  const late = sleep(deadlineMs, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`expected ${what} within ${deadlineMs} ms`);
  });
  late.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}

/** Asks again and again until the answer is true, and returns it; fails with what was waited for. */
export async function until(ask, what, deadlineMs = DEADLINE_MS) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`expected ${typeof what === "function" ? what() : what} within ${deadlineMs} ms`);
    await sleep(20);
  }
}
