// A chat behind `consumer = "backend"`, with Node alone.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.BACKEND_SECRET;
const port = Number(process.env.BACKEND_PORT ?? 9000);
if (!secret) throw new Error("expected a secret in BACKEND_SECRET");

// Returns whether the request comes from Oneport and is at most minutes old.
function isSigned(signature, body) {
  const [at, ...given] = signature.replace(/^t=/, "").split(",v1=");
  const wanted = createHmac("sha256", secret).update(`${at}.`).update(body).digest();
  // One for each secret that Oneport has: several while a secret is being rotated.
  const found = given.map((hex) => Buffer.from(hex, "hex")).filter((one) => one.length === wanted.length);
  return found.some((one) => timingSafeEqual(one, wanted)) && Math.abs(Date.now() / 1000 - Number(at)) < 300;
}

function connect(room) {
  if (room === "closed") {
    const headers = [["content-type", "text/plain"]];
    return [{ type: "websocket.http.response", status: 403, headers, body: "This room is closed.\n" }];
  }
  return [{ type: "websocket.accept" }, { type: "group.add", group: `chat_${room}` }];
}

function receive(room, state, text) {
  const message = messageOf(text);
  if (message === null) {
    const error = { type: "chat.error", code: "invalid_message", message: 'expected {"message": "..."}' };
    return [{ type: "websocket.send", text: JSON.stringify(error) }];
  }
  state.said += 1;
  const event = { type: "chat.message", message, user: null, at: new Date().toISOString(), number: state.said };
  return [{ type: "group.send", group: `chat_${room}`, event }];
}

function messageOf(text) {
  try {
    const message = JSON.parse(text)?.message;
    return typeof message === "string" && message !== "" ? message : null;
  } catch {
    return null;
  }
}

// Returns the actions for the events of one request.
function answer({ connection, scope, events }) {
  const state = connection?.state ?? { said: 0 };
  const room = scope?.url_route.kwargs.room;
  const effects = events.flatMap((event) => {
    switch (event.type) {
      case "websocket.connect":
        return connect(room);
      case "websocket.receive":
        return receive(room, state, event.text);
      case "websocket.disconnect":
        console.log(`left ${room} after ${state.said} messages: ${event.cause}`);
        return [];
      case "oneport.node_started":
        console.log(`${event.name} began as ${event.node}`);
        return [];
      default:
        return [];
    }
  });
  return { state, events: effects };
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function say(response, status, value) {
  const body = JSON.stringify(value);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  response.end(body);
}

async function handle(request) {
  const body = await read(request);
  if (!isSigned(request.headers["oneport-signature"] ?? "", body)) {
    return [403, "expected a request that is signed with BACKEND_SECRET"];
  }
  return [200, answer(JSON.parse(body))];
}

// An unhandled rejection would end the process, as would a request that is cut off; 500 ends one connection.
function failed(error) {
  console.error(error);
  return [500, "the program failed: its log says why"];
}

const server = createServer(async (request, response) => {
  const [status, value] = await handle(request).catch(failed);
  say(response, status, value);
});
server.keepAliveTimeout = 75_000; // longer than Oneport keeps a connection that has nothing to do
server.listen(port, "127.0.0.1", () => console.log(`listens at 127.0.0.1:${port}`));
