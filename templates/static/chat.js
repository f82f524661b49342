/** The room's page: connects the server, the list of messages and the form. */

import { MessageList, nameOf } from "./message_list.js";
import { connect } from "./oneport.js";
import { newRef, OwnMessages, rememberedNickname, rememberNickname } from "./visitor.js";

const byId = (id) => document.getElementById(id);
const chat = byId("chat");
const [field, send, status, members, who, nickname] = ["text", "send", "status", "members", "who", "nickname"].map(byId);
const [notice, noticeText, again, logIn] = ["notice", "notice-text", "again", "log-in"].map(byId);

/** The close code of a socket whose login has ended. */
const LOGIN_ENDED = 4401;
const WHO = JSON.stringify({ type: "who" });
const STATUS_TEXTS = {
  connecting: "Connecting…",
  open: "Connected",
  events: "Connected, read only",
  waiting: "Reconnecting…",
  closed: "Disconnected",
};

const list = new MessageList(byId("log"), byId("newer"));
const own = new OwnMessages(chat.dataset.user);
const server = connect(chat.dataset.socketPath, { probe: WHO, events: chat.dataset.eventsPath ?? null });
const title = document.title;
let lastSent = "";
const openedAt = Date.now();
let unread = 0;
let wasOpen = false;
let isStale = false;

server.on("status", (change) => {
  // Each attempt after a loss is still "reconnecting" for the reader, and not worth an announcement.
  const shown = change.status === "connecting" && wasOpen ? "waiting" : change.status;
  const text = STATUS_TEXTS[shown === "open" && change.transport === "events" ? "events" : shown];
  if (status.textContent !== text) status.textContent = text;
  chat.dataset.status = shown;
  wasOpen = change.status === "closed" ? false : wasOpen || change.status === "open";
  if (change.status === "open") hideNotice();
  if (change.status === "closed") ended(change);
  updateForm();
});

server.on("presence", ({ members, users }) => {
  showMembers(members);
  if (users !== null) who.textContent = namesOf(users);
});

server.on("gap", () => list.addGap());

server.on("event", (event) => {
  switch (event.type) {
    case "chat.message":
      said(event);
      break;
    case "chat.join":
      list.addPresence("came in", event.user);
      break;
    case "chat.leave":
      list.addPresence("left", event.user);
      break;
    case "chat.error":
      refused(event.message);
      break;
    default: // The group may carry events of others, which are no concern of this page.
  }
});

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const message = field.value.trim();
  if (message === "") return;
  const ref = newRef();
  const name = nickname?.value.trim() ?? "";
  if (!server.send(name === "" ? { message, ref } : { message, ref, nickname: name })) return;
  own.add(ref);
  lastSent = message;
  field.value = "";
  field.focus();
  hideNotice();
  list.toEnd();
  updateForm();
});

field.addEventListener("input", updateForm);

// Only who is not logged in has the field.
if (nickname !== null) {
  nickname.value = rememberedNickname();
  nickname.addEventListener("change", () => rememberNickname(nickname.value.trim()));
  nickname.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    field.focus();
  });
}

field.addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!send.disabled) field.form.requestSubmit();
});

members.addEventListener("click", () => {
  who.hidden = !who.hidden;
  members.setAttribute("aria-expanded", String(!who.hidden));
  askWho();
});

again.addEventListener("click", () => {
  if (isStale) {
    location.reload();
    return;
  }
  hideNotice();
  server.open();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
});

// A page from the back/forward cache may show a login that has ended.
addEventListener("pageshow", ({ persisted }) => {
  if (persisted && (isStale || byId("account") !== null)) location.reload();
});

function said(event) {
  const isOwn = own.has(event);
  if (!list.addMessage(event, isOwn)) return;
  byId("empty").hidden = true;
  // The history of a tab that is opened in the background is not news.
  if (!document.hidden || isOwn || Date.parse(event.at) < openedAt) return;
  unread += 1;
  document.title = `(${unread}) ${title}`;
}

/** Shows why the server rejected a message, and restores its text unless the user has typed another. */
function refused(sentence) {
  showNotice(typeof sentence === "string" ? sentence : "The server did not take this message.", false);
  if (field.value === "") field.value = lastSent;
  lastSent = "";
  updateForm();
}

function ended(detail) {
  if (detail.code !== LOGIN_ENDED) {
    showNotice(endingOf(detail), true);
    return;
  }
  // The page has the name of a user who is logged out, and the token for that login.
  isStale = true;
  byId("account")?.remove();
  showNotice("You were logged out.", logIn === null);
  if (logIn !== null) logIn.hidden = false;
}

function endingOf({ code, reason }) {
  if (code === 1008) return "The server refused this connection.";
  return reason === "" ? "The server ended this conversation." : `The server ended this conversation: ${reason}`;
}

function showMembers(count) {
  const isKnown = Number.isInteger(count);
  members.hidden = !isKnown;
  if (!isKnown) {
    who.hidden = true;
    members.setAttribute("aria-expanded", "false");
    return;
  }
  const text = `${count} here`;
  if (members.textContent !== text && !who.hidden) askWho();
  members.textContent = text;
}

function askWho() {
  if (!who.hidden) server.who();
}

/** "anna, ben and 2 anonymous", in the reader's language as far as the browser knows it. */
function namesOf(users) {
  if (!Array.isArray(users)) return "";
  const named = users.filter((user) => user !== null).map(nameOf);
  const anonymous = users.length - named.length;
  const names = [...new Set(named)].sort((a, b) => a.localeCompare(b));
  if (anonymous > 0) names.push(`${anonymous} anonymous`);
  return new Intl.ListFormat(undefined, { type: "conjunction" }).format(names);
}

function showNotice(text, canConnect) {
  noticeText.textContent = text;
  again.hidden = !canConnect;
  notice.hidden = false;
}

function hideNotice() {
  notice.hidden = true;
}

function updateForm() {
  const canSend = server.transport === "websocket";
  send.disabled = !canSend || field.value.trim() === "";
  if (canSend) field.placeholder = `Message ${chat.dataset.room}`;
  else field.placeholder = server.status === "open" ? "Read only: this network blocks WebSockets" : "Not connected";
}
