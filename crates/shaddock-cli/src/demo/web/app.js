// The chat half of the page: gate, connector, room.

import { avatar } from "./avatar.js";
import { refreshSessions, watchSessions } from "./sessions.js";
import { connect } from "./shaddock.js";

const $ = (id) => document.getElementById(id);
const settings = await fetch("/demo.json").then((answer) => answer.json());
const secure = location.protocol === "https:" ? "wss" : "ws";

/** A room stays on the screen while its connection comes back: after about 30 s of failed attempts it is left. */
const RECONNECT = { min: 250, max: 3000, attempts: 12 };
/** How often a name is tried again that our own old session may still have. */
const RETURNS = 10;

/** Of the room we are in: { client, name, room, users, lastFrom, port, reason }. */
let here = null;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function showState(state, text) {
  $("state").dataset.state = state;
  $("state-text").textContent = text;
}

function showNotice(title, text) {
  $("notice").hidden = !title;
  $("notice-title").textContent = title ?? "";
  $("notice-text").textContent = text ?? "";
}

function showNameError(text) {
  $("name-error").hidden = !text;
  $("name-error").textContent = text ?? "";
  $("name").setAttribute("aria-invalid", String(Boolean(text)));
}

function busy(label) {
  $("join-button").disabled = Boolean(label);
  $("join-button").ariaBusy = String(Boolean(label));
  $("join-label").textContent = label || "Join";
}

/** Asks the gate for a connector and enters the room through it. Null: the name is taken. */
async function enter(name, room) {
  showState("connecting", "Asking the gate");
  const gate = await connect(`${secure}://${location.hostname}:${settings.gate_port}`, { resume: false, reconnect: false });
  const entry = await gate.request("gate.gateHandler.queryEntry", { uid: name }).finally(() => gate.close());
  if (entry.code !== 200) throw new Error("The gate knows no connector.");
  showState("connecting", `Connecting to port ${entry.port}`);
  const client = await connect(`${secure}://${entry.host}:${entry.port}`, { reconnect: RECONNECT });
  const found = { client, name, room, users: [], lastFrom: null, port: entry.port, reason: null };
  const mine = (act) => (value) => here === found && act(value);
  // Pushes may come in the same moment as the answer.
  client.onPush("*", mine(receive));
  client.on("suspended", mine(({ why }) => showState("suspended", `Reconnecting: ${why}`)));
  client.on("resumed", mine(resumed));
  client.on("restarted", mine(restarted));
  client.on("kicked", (reason) => (found.reason = reason));
  client.on("closed", mine(left));
  const answer = await logIn(client, name, room).catch((error) => {
    client.close();
    throw error;
  });
  if (!answer) return client.close(), null;
  return Object.assign(found, { users: answer.users });
}

/** Null: the name is taken. */
async function logIn(client, name, room) {
  const answer = await client.request("connector.entryHandler.enter", { username: name, rid: room });
  return answer.error || answer.code === 500 ? null : answer;
}

async function join(event) {
  event.preventDefault();
  const name = $("name").value.trim();
  const room = $("room").value.trim();
  showNotice();
  showNameError();
  if (!name || !room) return;
  if (/[*\s]/.test(name)) return showNameError("A name has no spaces and no asterisks.");
  busy("Joining");
  try {
    here = await enter(name, room);
    if (!here) {
      showState("idle", "Not connected");
      showNameError(`Somebody in ${room} is called ${name} already. Pick another name.`);
      return $("name").focus();
    }
    openRoom();
  } catch (error) {
    showState("lost", "Not connected");
    showNotice("That did not work", error.message);
  } finally {
    busy();
  }
}

function openRoom() {
  const { name, room } = here;
  showConnected();
  document.title = `${room}: shaddock chat demo`;
  $("join").hidden = true;
  $("room-view").hidden = false;
  $("room-name").textContent = room;
  $("messages").replaceChildren();
  note(`You joined ${room} as ${name}.`);
  showMembers();
  refreshSessions();
  $("text").focus();
}

function closeRoom() {
  here = null;
  document.title = "shaddock: chat demo";
  $("room-view").hidden = true;
  $("join").hidden = false;
  refreshSessions();
}

function showConnected() {
  showState("connected", `${here.name} via port ${here.port}`);
}

/** The same session goes on. */
function resumed({ missed }) {
  showConnected();
  note(missed ? `Reconnected. ${missed} messages were missed.` : "Reconnected. Nothing was missed.");
}

/** A new session: it has to enter the room again. The server may not have noticed yet that the old one is gone, and then the name is taken. */
async function restarted() {
  const room = here;
  showState("connecting", "Entering again");
  try {
    for (let left = RETURNS; here === room && room.client.state === "open"; left--) {
      const answer = await logIn(room.client, room.name, room.room);
      if (here !== room) return;
      if (answer) {
        room.users = answer.users;
        showMembers();
        showConnected();
        return note("Reconnected. What was said meanwhile was missed.");
      }
      if (!left) break;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    if (here === room && room.client.state === "open") room.client.close();
  } catch {
    // Lost again: the next `restarted` or `closed` goes on.
  }
}

/** The client has given up, and we did not ask for it. */
function left(why) {
  const { room, reason } = here;
  closeRoom();
  if (reason === "draining") {
    showState("lost", "Server going down");
    showNotice("The server is going down", "Try again in a moment.");
  } else if (reason !== null) {
    showState("kicked", "Kicked");
    showNotice(`You were kicked from ${room}`, reason ? `Reason: ${reason}` : "No reason was given.");
  } else {
    showState("lost", "Connection lost");
    const text = why === "unreachable" ? "The server could not be reached again." : "The room could not be entered again.";
    showNotice("The connection was lost", text);
  }
}

function receive({ route, body }) {
  if (route === "onChat") showMessage(body);
  else if (route === "onAdd") {
    if (!here.users.includes(body.user)) here.users.push(body.user);
    showMembers();
    note(`${body.user} joined.`);
  } else if (route === "onLeave") {
    here.users = here.users.filter((user) => user !== body.user);
    showMembers();
    note(`${body.user} left.`);
  }
}

function showMembers() {
  const { users, name } = here;
  const label = (user) => (user === name ? `${user} (you)` : user);
  $("members").replaceChildren(...users.map((user) => element("li", "", avatar(user), label(user))));
  $("room-meta").textContent = users.length === 1 ? "Only you are here" : `${users.length} people`;
  const target = $("target").value;
  const option = (value, text) => Object.assign(element("option", "", text), { value });
  const others = users.filter((user) => user !== name);
  $("target").replaceChildren(option("*", "Everyone"), ...others.map((user) => option(user, user)));
  $("target").value = others.includes(target) ? target : "*";
}

function append(node) {
  const list = $("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.append(node);
  while (list.childElementCount > 500) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function note(text) {
  here.lastFrom = null;
  append(element("li", "note", text));
}

function showMessage({ msg, from, target }) {
  const own = from === here.name;
  const isPrivate = target !== "*";
  const thread = `${from} ${target}`;
  const first = here.lastFrom !== thread;
  here.lastFrom = thread;
  const item = element("li", `message${own ? " own" : ""}${first ? " first" : ""}`);
  if (first) {
    const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const meta = element("div", "meta", element("b", "", own ? "You" : from), time);
    if (isPrivate) meta.append(element("span", "tag", own ? `private to ${target}` : "private"));
    item.append(avatar(from), meta);
  }
  item.append(element("div", "body", msg));
  append(item);
}

async function send(event) {
  event.preventDefault();
  const content = $("text").value.trim();
  const target = $("target").value;
  if (!content || !here) return;
  $("text").value = "";
  const at = here;
  const { client, name, room } = at;
  try {
    const answer = await client.request("chat.chatHandler.send", { rid: room, content, from: name, target });
    if (answer.code && answer.code !== 200) note("The message was not delivered.");
    else if (target !== "*") showMessage({ msg: content, from: name, target });
  } catch (error) {
    if (here !== at) return;
    // Whether a message arrived whose connection was lost is unknown; one that was not even sent is given back.
    const unsent = ["full", "offline", "closed"].includes(error.code);
    if (unsent && !$("text").value) $("text").value = content;
    note(unsent ? "Not connected: the message was not sent." : "No answer: the message may not have been delivered.");
  }
}

function leave() {
  const { client } = here;
  closeRoom();
  client.close();
  showNotice();
  showState("idle", "Not connected");
}

$("join").addEventListener("submit", join);
$("composer").addEventListener("submit", send);
$("leave").addEventListener("click", leave);
$("interrupt").addEventListener("click", () => here?.client.interrupt());
$("name").addEventListener("input", () => showNameError());

const query = new URLSearchParams(location.search);
if (query.has("name")) $("name").value = query.get("name");
if (query.has("room")) $("room").value = query.get("room");
$("name").focus();

watchSessions(() => here && `${here.name}*${here.room}`);
