// The operator half of the page: live sessions, figures, kick.

import { avatar } from "./avatar.js";

const $ = (id) => document.getElementById(id);
const EVERY = 1000;
const SHOWN = 200;

/** Rows by session id: kept over updates, so that a click never hits another row than the one that was seen. */
const rows = new Map();

async function get(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? `The server answered ${answer.status}.`);
  return body;
}

const units = ["B", "KB", "MB", "GB", "TB"];

function bytes(n) {
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit++) n /= 1000;
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

function count(n) {
  return n.toLocaleString("en");
}

function age(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${Math.floor((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

function cell(className = "") {
  const td = document.createElement("td");
  td.className = className;
  return td;
}

function two(big, small) {
  const box = document.createElement("span");
  box.className = "two";
  const line = document.createElement("small");
  line.textContent = small;
  box.append(big, line);
  return box;
}

function makeRow(session) {
  const tr = document.createElement("tr");
  tr.dataset.sid = session.sid;
  const kick = document.createElement("button");
  kick.type = "button";
  kick.className = "kick";
  kick.textContent = "Kick";
  const cells = {
    who: cell(),
    sid: cell("mono"),
    frontend: cell(),
    client: cell(),
    age: cell("num"),
    in: cell("num"),
    out: cell("num"),
    action: cell(),
  };
  cells.sid.textContent = session.sid;
  cells.frontend.textContent = session.frontend;
  cells.client.append(two(session.transport.toUpperCase(), session.address ?? "unknown address"));
  cells.action.append(kick);
  kick.addEventListener("click", () => askToKick(rows.get(session.sid).session));
  tr.append(...Object.values(cells));
  return { tr, cells, kick, session: null };
}

function showWho(row, session, own) {
  const [name, room] = session.uid?.split("*") ?? [];
  const box = document.createElement("span");
  box.className = "who";
  if (name === undefined) {
    const unbound = document.createElement("span");
    unbound.className = "muted";
    unbound.textContent = "not logged in";
    box.append(unbound);
  } else {
    const title = document.createElement("b");
    title.textContent = name;
    box.append(avatar(name), two(title, room ? `in ${room}` : session.uid));
    if (own) {
      const you = document.createElement("span");
      you.className = "you";
      you.textContent = "you";
      box.append(you);
    }
  }
  row.cells.who.replaceChildren(box);
}

function updateRow(row, session, own) {
  if (row.session?.uid !== session.uid || row.own !== own) showWho(row, session, own);
  row.session = session;
  row.own = own;
  row.kick.ariaLabel = `Kick ${session.uid ?? session.sid}`;
  row.cells.age.textContent = age(session.age_ms);
  row.cells.in.textContent = bytes(session.bytes_in);
  row.cells.out.textContent = bytes(session.bytes_out);
}

function showSessions(page, ownUid) {
  const seen = new Set(page.sessions.map((session) => session.sid));
  for (const [sid, row] of rows) {
    if (!seen.has(sid)) {
      row.tr.remove();
      rows.delete(sid);
    }
  }
  for (const session of page.sessions) {
    if (!rows.has(session.sid)) {
      rows.set(session.sid, makeRow(session));
      $("sessions").append(rows.get(session.sid).tr);
    }
    updateRow(rows.get(session.sid), session, Boolean(ownUid) && session.uid === ownUid);
  }
  $("empty").hidden = rows.size > 0;
  $("more").hidden = page.total <= rows.size;
  $("more").textContent = `${count(page.total)} sessions; the oldest ${count(rows.size)} are shown.`;
}

function showFigure(place, name, value) {
  $(`name-${place}`).textContent = name;
  $(`figure-${place}`).textContent = count(value);
}

/** Figures of all servers. What they have counted since they started is known of a single process only. */
async function showFigures(page, servers) {
  const sum = (list, key) => list.reduce((total, one) => total + (one[key] ?? 0), 0);
  const isCluster = servers.some((server) => !server.here);
  const counted = isCluster ? page.sessions : (await get("/api/stats")).servers;
  $("figure-sessions").textContent = count(sum(servers, "sessions"));
  $("figure-users").textContent = count(sum(servers, "users"));
  if (isCluster) {
    showFigure("third", "Servers", servers.filter((server) => !server.unanswered).length);
    showFigure("fourth", "In flight", sum(servers, "in_flight"));
  } else {
    showFigure("third", "Requests", sum(counted, "requests"));
    showFigure("fourth", "Pushes", sum(counted, "pushes"));
  }
  $("figure-in").textContent = bytes(sum(counted, "bytes_in"));
  $("figure-out").textContent = bytes(sum(counted, "bytes_out"));
}

function showLive(state, text) {
  $("live").dataset.live = state;
  $("live-text").textContent = text;
}

async function askToKick(session) {
  const dialog = $("kick-dialog");
  $("kick-who").textContent = `${session.uid ?? "Not logged in"}, session ${session.sid}`;
  dialog.returnValue = "";
  dialog.showModal();
  $("kick-reason").select();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "kick") return;
  const answer = await fetch("/api/cluster/kick", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ sid: session.sid, reason: $("kick-reason").value }),
  });
  if (!answer.ok) showLive("error", (await answer.json()).error?.message ?? "The kick failed.");
  else await update();
}

let ownUid = () => null;

/** Asks the server now. */
export const refreshSessions = () => update();

async function update() {
  try {
    const [page, { servers }] = await Promise.all([
      get(`/api/cluster/sessions?limit=${SHOWN}`),
      get("/api/cluster/servers"),
    ]);
    showSessions(page, ownUid());
    await showFigures(page, servers);
    const silent = servers.filter((server) => server.unanswered).map((server) => server.id);
    showLive("yes", silent.length ? `Live, no answer from ${silent.join(", ")}` : "Live");
  } catch (error) {
    showLive("error", error instanceof TypeError ? "Server not reachable" : error.message);
  }
}

/** Shows the sessions for as long as the page is open. `own` gives the uid of this page's session. */
export async function watchSessions(own) {
  ownUid = own;
  // Pressing Enter in the field means the button that does something.
  $("kick-reason").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    $("kick-dialog").close("kick");
  });
  for (;;) {
    if (!document.hidden) await update();
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}
