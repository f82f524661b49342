/** The page of the Channels tutorial's chat. */

const log = document.getElementById("log");
const text = document.getElementById("text");
const url = new URL(log.dataset.socketPath, location.href.replace(/^http/, "ws"));
const show = (line) => { log.value += `${line}\n`; log.scrollTop = log.scrollHeight; };
let socket, failures = 0;

function connect() {
  socket = new WebSocket(url);
  socket.onopen = () => { failures = 0; show("(connected)"); };
  socket.onmessage = ({ data }) => show(JSON.parse(data).message);
  socket.onclose = ({ code, reason }) => {
    if (failures === 0) show(`(closed: ${code})`);
    setTimeout(connect, waitMs(reason));
  };
}

/** The time that the server asked for at the end of its reason, and a random part, which grows with each failure. */
function waitMs(reason) {
  const asked = /; retry_after=(\d{1,3})$/.exec(reason);
  return Number(asked?.[1] ?? 0) * 1_000 + Math.random() * Math.min(30_000, 1_000 * 2 ** failures++);
}

document.getElementById("say").onsubmit = (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ message: text.value }));
  text.value = "";
};

connect();
