/** The page of the Channels tutorial's chat. */

const log = document.getElementById("log");
const text = document.getElementById("text");
const socket = new WebSocket(new URL(log.dataset.socketPath, location.href.replace(/^http/, "ws")));
const show = (line) => { log.value += `${line}\n`; log.scrollTop = log.scrollHeight; };

socket.onopen = () => show("(connected)");
socket.onmessage = ({ data }) => show(JSON.parse(data).message);
socket.onclose = ({ code }) => show(`(closed: ${code})`);

document.getElementById("say").onsubmit = (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ message: text.value }));
  text.value = "";
};
