/** Browser: the system's Chromium, a new profile for each test. */

import { mkdirSync } from "node:fs";
import path from "node:path";
import { chromium } from "playwright-core";
import { DEADLINE_MS } from "./deadline.mjs";
import { ROOT } from "./server.mjs";

const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/**
 * Starts a browser that ends with the test. Playwright gives each launch an empty profile, and removes it.
 *
 * Playwright turns off that pages are kept for the way back; `keepsPages` leaves it on, as it is for everybody else. `args`: more
 * arguments. `env`: another environment.
 */
export async function startBrowser(t, { keepsPages = false, args = [], env } = {}) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    headless: true,
    args: [...ARGS, ...args],
    env,
    ignoreDefaultArgs: keepsPages ? ["--disable-back-forward-cache"] : [],
    timeout: 30_000,
  });
  t.after(() => browser.close());
  return browser;
}

/** Opens a tab; `tab.errors` collects what goes wrong in it. */
export async function openTab(context, url) {
  const tab = await context.newPage();
  tab.setDefaultTimeout(DEADLINE_MS);
  tab.errors = [];
  tab.on("console", (message) => message.type() === "error" && tab.errors.push(message.text()));
  tab.on("pageerror", (error) => tab.errors.push(String(error)));
  await tab.goto(url);
  return tab;
}

/** Opens a room of the chat, and waits until its socket is open. */
export async function openRoom(context, url) {
  const tab = await openTab(context, url);
  await waitForStatus(tab, "Connected");
  return tab;
}

export async function waitForStatus(tab, text) {
  await tab.waitForFunction((text) => document.querySelector("[role=status]")?.textContent.includes(text), text);
}

/** Waits until an element of this selector has exactly this text. */
export async function waitForText(tab, selector, text) {
  await tab.waitForFunction(
    ({ selector, text }) => [...document.querySelectorAll(selector)].some((node) => node.textContent === text),
    { selector, text },
  );
}

/** Types into the field and presses Enter, as a person does. */
export async function say(tab, field, text) {
  await tab.fill(field, text);
  await tab.press(field, "Enter");
}

/** Returns where a screenshot goes. */
export function screenshotPath(name) {
  const directory = path.join(ROOT, "target/screenshots");
  mkdirSync(directory, { recursive: true });
  return path.join(directory, `${name}.png`);
}
