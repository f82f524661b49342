/** Links: the addresses in a text, so that they can be clicked. */

const ADDRESS = /\bhttps?:\/\/[^\s<>"\u00a0\u200b-\u200f\u2028-\u202e\u2060-\u206f]+/giu;
/** What ends a sentence, and not an address. */
const TRAILING = /[.,:;!?'*_\])}»”’]$/u;
const CLOSES = { ")": "(", "]": "[", "}": "{" };

/** Returns a text in parts, `{ text, href }`; `href` is null for what is no address. */
export function partsOf(text) {
  const parts = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = trimmed(found);
    const href = hrefOf(address);
    if (href === null) continue;
    if (index > end) parts.push({ text: text.slice(end, index), href: null });
    parts.push({ text: address, href });
    end = index + address.length;
  }
  if (end < text.length) parts.push({ text: text.slice(end), href: null });
  return parts;
}

/** Returns a text as nodes, its addresses as links. */
export function linked(text) {
  return partsOf(text).map(({ text, href }) => {
    if (href === null) return document.createTextNode(text);
    const link = document.createElement("a");
    link.href = href;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow ugc";
    link.textContent = text;
    return link;
  });
}

/** Drops what follows an address in a sentence; a parenthesis that the address opens stays. */
function trimmed(address) {
  let end = address.length;
  const surplus = { ")": 0, "]": 0, "}": 0 };
  for (const closes in surplus) surplus[closes] = address.split(closes).length - address.split(CLOSES[closes]).length;
  for (; end > 0 && TRAILING.test(address[end - 1]); end -= 1) {
    const last = address[end - 1];
    if (last in surplus && surplus[last]-- <= 0) break;
  }
  return address.slice(0, end);
}

/** Returns where an address leads; null if it is none, or one that seems to lead elsewhere (`https://bank.example@evil.example`). */
function hrefOf(address) {
  try {
    const { protocol, username, password, href } = new URL(address);
    return /^https?:$/.test(protocol) && username === "" && password === "" ? href : null;
  } catch {
    return null;
  }
}
