/** The page of the Channels tutorial's chat. */

import { connect } from "../client/oneport.js";

const log = document.getElementById("log");
const text = document.getElementById("text");
const show = (line) => { log.value += `${line}\n`; log.scrollTop = log.scrollHeight; };
const server = connect(log.dataset.socketPath);
let wasOpen = false;

server.on("event", ({ message }) => show(message));

server.on("status", ({ status, code }) => {
  if (status === "open") show("(connected)");
  else if (wasOpen) show(`(closed: ${code})`);
  wasOpen = status === "open";
});

document.getElementById("say").onsubmit = (event) => {
  event.preventDefault();
  if (server.send({ message: text.value })) text.value = "";
};
