/** Logging in and out: the pages, the sockets that rest on a login, and what a page from elsewhere may not do with them. */

import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";
import { openRoom, openTab, say, screenshotPath, startBrowser, waitForStatus, waitForText } from "./browser.mjs";
import { until } from "./deadline.mjs";
import { freePort, ROOT, runUser, Server, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 90_000 };
const PASSWORD = "Tee mit Zucker & 2 % Milch";
const SIZES = { phone: { width: 360, height: 740 }, desktop: { width: 1280, height: 800 } };

/** The demo's routes over a store and a table of users of their own. */
const config = (origins) => `
[server]
allowed_hosts = ["127.0.0.1", "localhost"]

[templates]
dir = ${JSON.stringify(path.join(ROOT, "templates"))}

[session]
store = "sqlite:sessions.db"

[auth]
users = "sqlite:sessions.db"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path    = "/"
name    = "index"
view    = "template"
options = { template = "chat/index.html" }

[[http.route]]
path    = "/chat/{room:slug}/"
name    = "room"
view    = "template"
options = { template = "chat/room.html" }

[[http.route]]
path       = "/members/{room:slug}/"
name       = "members"
middleware = ["hosts", "session", "auth", "login_required"]
view       = "template"
options    = { template = "chat/room.html" }

[[http.route]]
path = "/login/"
name = "login"
view = "login"

[[http.route]]
path = "/logout/"
name = "logout"
view = "logout"

[[http.route]]
path       = "/static/{*path}"
name       = "static"
middleware = ["hosts"]
view       = "static"
options    = { dir = ${JSON.stringify(path.join(ROOT, "templates/static"))} }

[[websocket.route]]
path            = "/ws/chat/{room:slug}/"
name            = "chat"
middleware      = ["hosts", "origin", "session", "auth"]
allowed_origins = ${JSON.stringify(origins)}
consumer        = "chat"
options         = { group = "chat_{room}", history = 50, presence = true }

[[websocket.route]]
path            = "/ws/careless/{room:slug}/"
middleware      = ["hosts", "origin", "session", "auth"]
allowed_origins = ["*"]
consumer        = "chat"
options         = { group = "careless_{room}", presence = true }
`;

/** Starts a server that knows anna, and lets only its own pages open its sockets. */
async function start(t) {
  const port = await freePort();
  const file = temporaryConfig(t, config([`http://127.0.0.1:${port}`]));
  runUser(file, ["add", "anna", "--password-stdin"], `${PASSWORD}\n`);
  const server = await Server.start(t, { config: file, port });
  const browser = await startBrowser(t);
  return { server, browser, file, context: await browser.newContext() };
}

/** Logs in by keyboard: what has the focus first is what a person fills in first. */
async function logIn(tab, name, password) {
  await tab.waitForFunction(() => document.activeElement.id === "username");
  await tab.keyboard.type(name);
  await tab.keyboard.press("Tab");
  await tab.keyboard.type(password);
  await tab.keyboard.press("Enter");
}

/** Opens a room as anna, by its link to the form. */
async function openRoomAsAnna(context, server) {
  const tab = await openRoom(context, `${server.origin}/chat/lobby/`);
  await tab.click("text=Log in");
  await tab.waitForURL("**/login/?next=/chat/lobby/");
  await logIn(tab, "anna", PASSWORD);
  await tab.waitForURL(`${server.origin}/chat/lobby/`);
  await waitForStatus(tab, "Connected");
  return tab;
}

const cookieOf = async (context, name) => (await context.cookies()).find((cookie) => cookie.name === name);

const nameShown = (tab) => tab.locator(".account-name").textContent();

test("the form says what was wrong, and leads back to the room it was asked for in", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openRoom(context, `${server.origin}/chat/lobby/`);
  await say(tab, "#text", "who am I?");
  await waitForText(tab, ".message-name", "anonymous");
  assert.equal(await cookieOf(context, "sessionid"), undefined);

  await tab.click("text=Log in");
  await tab.waitForURL("**/login/?next=/chat/lobby/");
  assert.deepEqual(tab.errors, []);
  const answer = tab.waitForResponse((response) => response.request().method() === "POST");
  await logIn(tab, "anna", "not her password");
  assert.equal((await answer).status(), 401);
  await tab.waitForSelector("#login-error");
  assert.equal(await tab.locator("#login-error").textContent(), "The name or the password is wrong.");
  assert.ok(await tab.isVisible("#login-error"));
  assert.equal(await tab.inputValue("#username"), "anna");
  assert.equal(await tab.inputValue("#password"), "");
  assert.equal(await tab.getAttribute("#password", "aria-describedby"), "login-error");
  assert.equal(await cookieOf(context, "sessionid"), undefined);

  // The name is filled in, so the password has the focus.
  await tab.waitForFunction(() => document.activeElement.id === "password");
  await tab.keyboard.type(PASSWORD);
  await tab.keyboard.press("Enter");
  await tab.waitForURL(`${server.origin}/chat/lobby/`);
  await waitForStatus(tab, "Connected");
  assert.match(await nameShown(tab), /anna$/);
  assert.deepEqual(tab.errors.filter((error) => !/status of 401/.test(error)), []);
});

test("two tabs talk under the name of who is logged in", LIMIT, async (t) => {
  const { server, browser, context } = await start(t);
  const one = await openRoomAsAnna(context, server);
  const two = await openRoom(context, `${server.origin}/chat/lobby/`);
  const stranger = await openRoom(await browser.newContext(), `${server.origin}/chat/lobby/`);
  await say(one, "#text", "hello");
  await waitForText(two, ".message-text", "hello");
  await say(stranger, "#text", "hello anna");
  await waitForText(two, ".message-text", "hello anna");
  for (const tab of [one, two, stranger]) {
    assert.deepEqual(await tab.locator(".message-name").allTextContents(), ["anna", "anonymous"]);
  }
  assert.equal(await two.locator(".message.own").count(), 1);
  // A stranger has no name by which a message is the stranger's own, but the tab knows what it has sent.
  assert.deepEqual(await stranger.locator(".message.own .message-text").allTextContents(), ["hello anna"]);
  assert.equal(await nameShown(stranger), "You are anonymous");
  await two.click("#members");
  await waitForText(two, "#who", "anna and 1 anonymous");
  for (const tab of [one, two, stranger]) assert.deepEqual(tab.errors, []);
});

test("a logout in one tab ends the sockets of the others with 4401, and nobody else's", LIMIT, async (t) => {
  const { server, browser, context } = await start(t);
  const one = await openRoomAsAnna(context, server);
  const two = await openRoom(context, `${server.origin}/chat/lobby/`);
  const stranger = await openRoom(await browser.newContext(), `${server.origin}/chat/lobby/`);
  await waitForText(stranger, "#members", "3 here");
  const code = await two.evaluateHandle(() => {
    const socket = new WebSocket(document.getElementById("chat").dataset.socketPath);
    const closed = new Promise((resolve) => socket.addEventListener("close", ({ code }) => resolve(code)));
    return new Promise((resolve) => socket.addEventListener("open", () => resolve({ closed })));
  });
  let attempts = 0;
  two.on("websocket", () => (attempts += 1));

  await one.click("text=Log out");
  await one.waitForURL(`${server.origin}/`);
  await one.waitForSelector("text=Log in");
  assert.equal(await cookieOf(context, "sessionid"), undefined);

  await waitForText(two, "#notice-text", "You were logged out.");
  await waitForStatus(two, "Disconnected");
  assert.equal(await code.evaluate(({ closed }) => closed), 4401);
  assert.equal(await two.locator("#account").count(), 0);
  assert.equal(await two.isDisabled("#send"), true);
  await waitForText(stranger, "#members", "1 here");
  await waitForStatus(stranger, "Connected");
  assert.equal(attempts, 0, "a page whose login has ended does not connect by itself");

  await two.click("#log-in");
  await logIn(two, "anna", PASSWORD);
  await two.waitForURL(`${server.origin}/chat/lobby/`);
  await waitForStatus(two, "Connected");
  await waitForText(stranger, ".presence", "anna came in");
  for (const tab of [one, two, stranger]) assert.deepEqual(tab.errors, []);
});

test("a user who was removed is logged out within the interval", LIMIT, async (t) => {
  const { server, file, context } = await start(t);
  const tab = await openRoomAsAnna(context, server);
  runUser(file, ["remove", "anna"]);
  await waitForText(tab, "#notice-text", "You were logged out.");
});

test("the way back after a logout leads to nobody's pages", LIMIT, async (t) => {
  const { server } = await start(t);
  const context = await (await startBrowser(t, { keepsPages: true })).newContext();
  const tab = await openRoomAsAnna(context, server);
  await tab.click(".back");
  await tab.click("nav >> text=help");
  await tab.waitForURL("**/chat/help/");
  await waitForStatus(tab, "Connected");
  await tab.click("text=Log out");
  await tab.waitForSelector("text=Log in");
  for (const path of ["/chat/help/", "/", "/chat/lobby/"]) {
    // A page out of the browser's memory is not loaded, unless its script asks for that.
    await tab.goBack({ waitUntil: "commit" });
    await until(() => tab.url() === server.origin + path, path);
    await waitForText(tab, ".nobody", "You are anonymous");
    await tab.waitForSelector("text=Log in");
  }
});

test("a page for members leads through the form and back", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/members/tea-break/?from=a%20b`);
  await tab.waitForURL(/\/login\/\?next=/);
  await logIn(tab, "anna", PASSWORD);
  await tab.waitForURL(`${server.origin}/members/tea-break/?from=a%20b`);
  assert.match(await nameShown(tab), /anna$/);
  assert.deepEqual(tab.errors, []);
});

test("the form leads to no other server", LIMIT, async (t) => {
  const { server, context } = await start(t);
  for (const next of ["https://example.org/", "//example.org/", "/\\example.org/", "javascript:alert(1)"]) {
    const tab = await openTab(context, `${server.origin}/login/?next=${encodeURIComponent(next)}`);
    await logIn(tab, "anna", PASSWORD);
    await tab.waitForURL(`${server.origin}/`);
    await tab.close();
  }
});

test("scripts cannot read the session's cookie, and other sites do not send it", LIMIT, async (t) => {
  const { server, context } = await start(t);
  const tab = await openTab(context, `${server.origin}/login/`);
  const answer = tab.waitForResponse((response) => response.request().method() === "POST");
  await logIn(tab, "anna", PASSWORD);
  const fields = await (await answer).headerValues("set-cookie");
  const field = fields.find((field) => field.startsWith("sessionid="));
  assert.match(field, /^sessionid=[a-z0-9]{32};/);
  for (const attribute of ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=1209600"]) {
    assert.ok(field.split("; ").includes(attribute), `expected ${attribute} in ${field}`);
  }
  await tab.waitForURL(`${server.origin}/`);
  const { httpOnly, sameSite, secure, expires } = await cookieOf(context, "sessionid");
  assert.deepEqual({ httpOnly, sameSite, secure }, { httpOnly: true, sameSite: "Lax", secure: false });
  assert.ok(expires > Date.now() / 1_000);
  assert.doesNotMatch(await tab.evaluate(() => document.cookie), /sessionid/);
});

// --- Pages from elsewhere -------------------------------------------------------------------------------------------------

/** Serves an empty page at another port. A port is another origin, but the same site: a browser sends its cookies along. */
async function startElsewhere(t) {
  const elsewhere = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end("<!doctype html><link rel=icon href=data:,><title>elsewhere</title>");
  });
  elsewhere.listen(0, "127.0.0.1");
  await once(elsewhere, "listening");
  t.after(() => {
    elsewhere.closeAllConnections();
    elsewhere.close();
  });
  return elsewhere.address().port;
}

/** Runs in the page: opens a socket; returns as whom it came into the room, "" when it was not let in. */
function comeIn(url) {
  const socket = new WebSocket(url);
  return new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      const { type, user } = JSON.parse(data);
      if (type === "chat.join") resolve(user);
    };
    socket.onclose = () => resolve("");
  });
}

/** Sends a form from a page, as a page can without asking anybody; returns the status. */
async function submit(tab, action, fields) {
  const answer = tab.waitForResponse((response) => response.url() === action);
  await tab.evaluate(
    ({ action, fields }) => {
      const form = document.createElement("form");
      Object.assign(form, { action, method: "post" });
      for (const [name, value] of Object.entries(fields)) {
        const input = document.createElement("input");
        Object.assign(input, { type: "hidden", name, value });
        form.append(input);
      }
      document.body.append(form);
      form.submit();
    },
    { action, fields },
  );
  await tab.waitForURL(action);
  return (await answer).status();
}

// What a browser sends along: to the same host also its session, to another one not (SameSite).
for (const [host, user] of [["127.0.0.1", "anna"], ["localhost", null]]) {
  test(`a page of another port of ${host} cannot open a socket as its visitor`, LIMIT, async (t) => {
    const { server, context } = await start(t);
    const room = await openRoomAsAnna(context, server);
    const attack = await openTab(context, `http://${host}:${await startElsewhere(t)}/`);
    const url = (name) => `${server.origin.replace("http", "ws")}/ws/${name}/own/`;
    assert.equal(await room.evaluate(comeIn, url("chat")), "anna");
    // Where every page is let in, it would be let in as her.
    assert.equal(await attack.evaluate(comeIn, url("careless")), user);
    assert.equal(await attack.evaluate(comeIn, url("chat")), "");
    await until(() => attack.errors.some((error) => /Unexpected response code: 403/.test(error)), "403");
  });

  test(`a page of another port of ${host} can log nobody in or out`, LIMIT, async (t) => {
    const { server, file, context } = await start(t);
    runUser(file, ["add", "mallory", "--password-stdin"], `${PASSWORD}\n`);
    const elsewhere = `http://${host}:${await startElsewhere(t)}/`;
    const attack = await openTab(context, elsewhere);
    const mallory = { username: "mallory", password: PASSWORD, next: "/" };
    assert.equal(await submit(attack, `${server.origin}/login/`, mallory), 403);
    assert.equal(await cookieOf(context, "sessionid"), undefined);

    const room = await openRoomAsAnna(context, server);
    for (const [path, fields] of [["/logout/", {}], ["/login/", mallory]]) {
      // Even one who has seen the page's token gets nowhere.
      const csrfmiddlewaretoken = await room.inputValue("[name=csrfmiddlewaretoken]");
      for (const guess of [fields, { ...fields, csrfmiddlewaretoken }]) {
        await attack.goto(elsewhere);
        assert.equal(await submit(attack, server.origin + path, guess), 403);
      }
    }
    await room.reload();
    await waitForStatus(room, "Connected");
    assert.match(await nameShown(room), /anna$/);
  });
}

// --- Looks ----------------------------------------------------------------------------------------------------------------

test("the form and the name fit phone and desktop, light and dark", LIMIT, async (t) => {
  const { server, browser, file } = await start(t);
  const long = "anna-maria.von-und-zu-hohenstein@a-rather-long-domain.example";
  runUser(file, ["add", long, "--password-stdin"], `${PASSWORD}\n`);
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ viewport, colorScheme });
      const shoot = async (tab, name) => {
        assert.equal(await tab.evaluate(() => document.documentElement.scrollWidth), viewport.width, name);
        await tab.screenshot({ path: screenshotPath(`${name}-${size}-${colorScheme}`) });
      };
      const tab = await openRoom(context, `${server.origin}/chat/lobby/`);
      await shoot(tab, "room-anonymous");
      await tab.click("text=Log in");
      await tab.waitForURL("**/login/?next=/chat/lobby/");
      await shoot(tab, "login");
      await logIn(tab, "anna", "not her password");
      await tab.waitForSelector("#login-error");
      await shoot(tab, "login-wrong");
      await tab.fill("#username", size === "phone" ? long : "anna");
      await tab.fill("#password", PASSWORD);
      await tab.press("#password", "Enter");
      await tab.waitForURL("**/chat/lobby/");
      await waitForStatus(tab, "Connected");
      await say(tab, "#text", "That kettle again.");
      await waitForText(tab, ".message-text", "That kettle again.");
      await shoot(tab, "room-user");
      const other = await openTab(context, `${server.origin}/`);
      await shoot(other, "index-user");
      await other.click("text=Log out");
      await waitForText(tab, "#notice-text", "You were logged out.");
      await shoot(tab, "room-logged-out");
      await context.close();
    }
  }
});
