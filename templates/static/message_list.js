/** MessageList: the messages as DOM. Text is only ever inserted as text. */

import { linked } from "./links.js";

const ENTRIES_MAX = 300;
const KEYS_MAX = 1_000;
/** How far from the bottom still counts as the bottom. */
const BOTTOM_PX = 48;
const TONES = 6;

const timeOfDay = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const dayInFull = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const inFull = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** Returns the name to show for a user, who may have none. */
export function nameOf(user) {
  return typeof user === "string" && user !== "" ? user : "anonymous";
}

/** Returns whether two positions (`HISTORY.NUMBER`) are of one history. A group that has lost its history begins another. */
export function isSameHistory(one, other) {
  const historyOf = (offset) => (typeof offset === "string" ? offset.slice(0, offset.lastIndexOf(".")) : null);
  return historyOf(one) !== null && historyOf(one) === historyOf(other);
}

/** A scrolling list that stays where the reader is, and follows only when the reader is at its end. */
export class MessageList {
  #log;
  #newer;
  #unseen = 0;
  /** The messages that are shown, each with its positions. */
  #keys = new Map();
  #presence = null;
  #day = new Date().toDateString();

  /** `log` scrolls, `newer` is the button that leads to its end. */
  constructor(log, newer) {
    this.#log = log;
    this.#newer = newer;
    log.addEventListener("scroll", () => this.#isAtEnd() && this.#seen(), { passive: true });
    newer.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#unseen === 0 && this.toEnd()).observe(log);
  }

  /** Adds a message; returns false for one that is already shown (a reconnect replays the history). */
  addMessage(event, isOwn) {
    if (!this.#isNew(event)) return false;
    const { message, user = null, nickname = null, at } = event;
    const date = dateOf(at);
    this.#beginDay(date);
    const isGuest = user === null && typeof nickname === "string";
    const name = nameOf(isGuest ? nickname : user);
    const entry = element("article", "message");
    if (user !== null) entry.dataset.tone = toneOf(name);
    entry.classList.toggle("own", isOwn);
    const head = element("p", "message-head");
    head.append(element("span", "message-name", name));
    // A nickname is what its visitor says; a user's name is what the server knows.
    if (isGuest) head.append(element("span", "message-mark", "guest"));
    if (isOwn) head.append(element("span", "message-mark", "you"));
    head.append(time(date));
    const text = element("p", "message-text");
    text.append(...linked(String(message)));
    entry.append(head, text);
    this.#presence = null;
    this.#append(entry, true);
    return true;
  }

  /** Says that messages are missing before the next one. */
  addGap() {
    this.#presence = null;
    this.#append(element("p", "presence", "Some messages are missing here."), false);
  }

  /** Shows who joined or left. Each line replaces the one before, so that they never fill the page. */
  addPresence(verb, user) {
    const text = `${nameOf(user)} ${verb}`;
    if (this.#presence !== null) {
      this.#presence.textContent = text;
      return;
    }
    this.#presence = element("p", "presence", text);
    this.#append(this.#presence, false);
  }

  toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#seen();
  }

  /** Shows the day before its first message, unless it is today's and none of another day precedes it. */
  #beginDay(date) {
    const day = date.toDateString();
    if (day === this.#day) return;
    this.#day = day;
    const line = element("p", "day");
    const text = element("time", "", dayInFull.format(date));
    text.dateTime = new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 10);
    line.append(text);
    this.#append(line, false);
  }

  #append(entry, counts) {
    const follows = this.#isAtEnd();
    this.#log.append(entry);
    this.#trim();
    if (follows) {
      this.toEnd();
    } else if (counts) {
      this.#unseen += 1;
      this.#newer.textContent = this.#unseen === 1 ? "1 new message" : `${this.#unseen} new messages`;
      this.#newer.hidden = false;
    }
  }

  /** Removes the oldest entries without moving what is being read. */
  #trim() {
    while (this.#log.childElementCount > ENTRIES_MAX) {
      const heightBefore = this.#log.scrollHeight;
      const top = this.#log.scrollTop;
      this.#log.firstElementChild.remove();
      this.#log.scrollTop = top - (heightBefore - this.#log.scrollHeight);
    }
  }

  #isNew({ id, offset, at, user, nickname, ref, message }) {
    // An event from an application may lack any.
    if ((id ?? offset ?? at ?? null) === null) return true;
    const key = id ?? JSON.stringify([at ?? offset, user, nickname, ref, message]);
    const offsets = this.#keys.get(key);
    if (offsets !== undefined) {
      // Another position in the same history is another message; in another history it is the same one, replayed.
      const isOther = !offsets.has(offset) && [...offsets].some((known) => isSameHistory(known, offset));
      offsets.add(offset);
      return isOther;
    }
    this.#keys.set(key, new Set([offset]));
    if (this.#keys.size > KEYS_MAX) this.#keys.delete(this.#keys.keys().next().value);
    return true;
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    return scrollHeight - scrollTop - clientHeight <= BOTTOM_PX;
  }

  #seen() {
    this.#unseen = 0;
    this.#newer.hidden = true;
  }
}

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

/** Returns when a message was sent; an event from an application may not say it, or not in a way that can be read. */
function dateOf(at) {
  const date = new Date(at ?? Date.now());
  return Number.isNaN(date.getTime()) ? new Date() : date;
}

function time(date) {
  const node = element("time", "message-time", timeOfDay.format(date));
  node.dateTime = date.toISOString();
  node.title = inFull.format(date);
  return node;
}

/** The same name always has the same colour. */
function toneOf(name) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 65_521;
  return String(hash % TONES);
}
