/** What the browser keeps of a visitor: a nickname, and which messages are the visitor's own. */

import { isSameHistory } from "./message_list.js";

const NICKNAME = "oneport.nickname";
const OWN = "oneport.own";
const OWN_MAX = 200;

/** Storage may be full, or forbidden: then nothing is kept. */
function kept(storage, key) {
  try {
    return globalThis[storage].getItem(key);
  } catch {
    return null;
  }
}

function keep(storage, key, value) {
  try {
    globalThis[storage].setItem(key, value);
  } catch {
    // The page works without it.
  }
}

export function rememberedNickname() {
  return kept("localStorage", NICKNAME) ?? "";
}

export function rememberNickname(nickname) {
  keep("localStorage", NICKNAME, nickname);
}

/** Returns a new `ref` of a message, which no one can guess. */
export function newRef() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The messages that this tab has sent, and those of the user who is logged in. */
export class OwnMessages {
  #user;
  /** By `ref`: the message's position, and when the server got it; null until they are known. Another with the same `ref` is a copy. */
  #sent;

  /** `user` is the name of who is logged in, or "". */
  constructor(user) {
    this.#user = user;
    try {
      this.#sent = new Map(JSON.parse(kept("sessionStorage", OWN) ?? "[]"));
    } catch {
      this.#sent = new Map();
    }
  }

  add(ref) {
    this.#sent.set(ref, null);
    if (this.#sent.size > OWN_MAX) this.#sent.delete(this.#sent.keys().next().value);
    this.#keep();
  }

  /** Returns whether a message is the visitor's own. */
  has({ user = null, ref, offset, at }) {
    if (user !== null) return user === this.#user && user !== "";
    const isPlaced = typeof (offset ?? at) === "string";
    if (this.#user !== "" || typeof ref !== "string" || !isPlaced || !this.#sent.has(ref)) return false;
    if (this.#sent.get(ref) === null) {
      this.#sent.set(ref, { offset, at });
      this.#keep();
    }
    const own = this.#sent.get(ref);
    return isSameHistory(own.offset, offset) ? own.offset === offset : at !== undefined && own.at === at;
  }

  #keep() {
    keep("sessionStorage", OWN, JSON.stringify([...this.#sent]));
  }
}
