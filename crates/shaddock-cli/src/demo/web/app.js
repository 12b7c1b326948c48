// The chat half of the page: gate, connector, room.

import { avatar } from "./avatar.js";
import { Pomelo } from "./pomelo.js";
import { refreshSessions, watchSessions } from "./sessions.js";

const $ = (id) => document.getElementById(id);
const settings = await fetch("/demo.json").then((answer) => answer.json());
const secure = location.protocol === "https:" ? "wss" : "ws";

/** Of the room we are in: { client, name, room, users, lastFrom }. */
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

/** Asks the gate for a connector and enters the room through it. */
async function enter(name, room) {
  showState("connecting", "Asking the gate");
  const gate = await Pomelo.connect(`${secure}://${location.hostname}:${settings.gate_port}`);
  const entry = await gate.request("gate.gateHandler.queryEntry", { uid: name });
  gate.close();
  if (entry.code !== 200) throw new Error("The gate knows no connector.");
  showState("connecting", `Connecting to port ${entry.port}`);
  const client = await Pomelo.connect(`${secure}://${entry.host}:${entry.port}`);
  // Pushes may come in the same moment as the answer.
  client.addEventListener("push", ({ detail }) => here?.client === client && receive(detail));
  client.addEventListener("close", ({ detail }) => here?.client === client && left(detail.kicked));
  const answer = await client.request("connector.entryHandler.enter", { username: name, rid: room });
  if (answer.error || answer.code === 500) {
    client.close();
    return null;
  }
  return { client, name, room, users: answer.users, lastFrom: null, port: entry.port };
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
  const { name, room, port } = here;
  showState("connected", `${name} via port ${port}`);
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

/** The connection is gone, and we did not ask for it. */
function left(kicked) {
  const { room } = here;
  closeRoom();
  if (kicked === "draining") {
    showState("lost", "Server going down");
    showNotice("The server is going down", "Try again in a moment.");
  } else if (kicked !== null) {
    showState("kicked", "Kicked");
    showNotice(`You were kicked from ${room}`, kicked ? `Reason: ${kicked}` : "No reason was given.");
  } else {
    showState("lost", "Connection lost");
    showNotice("The connection was lost", "The server closed it, or the network did.");
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
  const { client, name, room } = here;
  try {
    const answer = await client.request("chat.chatHandler.send", { rid: room, content, from: name, target });
    if (answer.code && answer.code !== 200) note("The message was not delivered.");
    else if (target !== "*") showMessage({ msg: content, from: name, target });
  } catch {
    // The connection closed; `left` tells.
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
$("name").addEventListener("input", () => showNameError());

const query = new URLSearchParams(location.search);
if (query.has("name")) $("name").value = query.get("name");
if (query.has("room")) $("room").value = query.get("room");
$("name").focus();

watchSessions(() => here && `${here.name}*${here.room}`);
