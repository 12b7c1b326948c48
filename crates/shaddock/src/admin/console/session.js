// One session in full; of one that is closed, why.

import { ask, every, newKey } from "./api.js";
import { facts, h, isInUse, section } from "./dom.js";
import { eventTable } from "./events.js";
import { bytes, clock, count, duration, known, quoted, t, withoutPort } from "./format.js";
import { kickDialog } from "./kick.js";
import { roomHref } from "./rooms.js";
import { listHref } from "./sessions.js";

const settingRows = (settings) =>
  Object.entries(settings).map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, h("pre", {}, JSON.stringify(value, null, 2)))));

function shown(session) {
  const { client = {} } = session;
  return facts([
    [t("session.uid"), session.uid ? h("a", { href: listHref(`uid = ${quoted(session.uid)}`) }, session.uid) : t("session.unbound")],
    [t("server.state"), known(`state.${session.state}`, session.state)],
    [t("session.frontend"), h("a", { href: `#/servers/${encodeURIComponent(session.frontend)}` }, session.frontend)],
    [t("session.transport"), `${session.transport} · ${session.dialect}`],
    [t("session.client"), [client.type, client.version, client.platform].filter(Boolean).join(" ")],
    [t("session.address"), session.address && h("a", { href: listHref(`address = ${quoted(withoutPort(session.address))}`) }, session.address)],
    [t("session.since"), `${clock(Date.now() - session.age_ms)} (${duration(session.age_ms)})`],
    [t("session.in"), `${count(session.messages_in)} · ${bytes(session.bytes_in)}`],
    [t("session.out"), `${count(session.messages_out)} · ${bytes(session.bytes_out)}`],
    [t("session.queued"), bytes(session.queued_bytes)],
    [t("session.kept"), session.kept_messages === undefined ? t("session.no-resume") : `${count(session.kept_messages)} · ${bytes(session.kept_bytes)}`],
    [t("session.suspended"), session.suspended_ms === undefined ? "" : duration(session.suspended_ms)],
  ]);
}

export function session(main, { signal, parts: [sid], may }) {
  const about = h("div", { id: "about", class: "box" });
  const [settings, rooms] = [h("div", { id: "settings" }), h("div", { id: "rooms" })];
  const actions = h("div", { class: "row actions" });
  const own = eventTable(t("session.events"), ["sid", "address", "frontend"], t("events.none-kept"));
  const before = eventTable(t("session.closes"), ["address"], t("session.no-closes"));
  const closes = section(t("session.closes"), before.element);
  const since = h("p", { class: "muted" });
  const silent = h("div", { class: "problem", role: "alert" });
  const problem = h("p", { class: "problem", role: "alert" });
  const title = h("h1", {}, t("session.title"), " ", h("code", {}, sid));
  main.replaceChildren(
    title, problem, actions, about,
    section(t("session.settings"), settings),
    section(t("session.rooms"), rooms),
    section(t("session.events"), own.element, since, silent),
    closes,
  );
  closes.hidden = true;
  let offered = "";

  function offer({ uid, address }) {
    if (!may.operate || offered === `${uid} ${address}`) return;
    offered = `${uid} ${address}`;
    const kick = (text, question, to) =>
      h("button", { type: "button", class: "danger", onclick: () => kickDialog({ title: question, to, key: newKey(), done: again }) }, text);
    const from = address && withoutPort(address);
    actions.replaceChildren(...[
      kick(t("kick.this"), t("kick.sid", { sid }), { sid }),
      uid && kick(t("kick.user-button"), t("kick.user", { uid }), { uid }),
      from && kick(t("kick.address-button"), t("kick.address", { address: from }), { where: `address = ${quoted(from)}` }),
    ].filter(Boolean));
  }

  async function past(address) {
    const events = await ask("api/cluster/events", { query: { sid, limit: 50 }, signal });
    own.update(events.events);
    let unanswered = events.unanswered ?? [];
    since.textContent = events.since_ms ? t("events.since", { time: clock(events.since_ms) }) : "";
    const from = address ?? events.events.find((one) => one.address)?.address;
    if (from) {
      const query = { address: withoutPort(from), event: "closed", limit: 20 };
      const closed = await ask("api/cluster/events", { query, signal });
      before.update(closed.events.filter((one) => one.sid !== sid));
      closes.hidden = false;
      unanswered = [...unanswered, ...(closed.unanswered ?? [])];
    }
    const texts = new Set(unanswered.map(({ server, reason }) => t("unanswered", { server, reason })));
    silent.replaceChildren(...[...texts].map((text) => h("p", {}, text)));
    return events.events;
  }

  function draw(found) {
    if (!isInUse(about)) about.replaceChildren(shown(found));
    const rows = settingRows(found.settings ?? {});
    const text = JSON.stringify(found.settings);
    if (settings.dataset.text !== text && !isInUse(settings)) {
      settings.dataset.text = text;
      settings.replaceChildren(rows.length > 0 ? h("table", { class: "settings" }, h("tbody", {}, rows)) : h("p", { class: "empty" }, t("session.no-settings")));
    }
    const keys = JSON.stringify(found.audiences);
    if (rooms.dataset.text !== keys && !isInUse(rooms)) {
      rooms.dataset.text = keys;
      const chip = (room) => h("li", {}, h("a", { class: "chip", href: roomHref(room.key) }, room.owner ? `${room.name} · ${room.owner}` : room.name));
      rooms.replaceChildren(found.audiences?.length > 0 ? h("ul", { class: "chips" }, found.audiences.map(chip)) : h("p", { class: "empty" }, t("session.no-rooms")));
    }
  }

  const again = every(3000, signal, async () => {
    try {
      const found = await ask(`api/cluster/sessions/${encodeURIComponent(sid)}`, { signal });
      problem.textContent = "";
      offer(found);
      draw(found);
      await past(found.address);
    } catch (error) {
      if (error.status !== 404) throw error;
      actions.replaceChildren();
      offered = "";
      const last = (await past()).find(({ event }) => event === "closed");
      problem.textContent = last
        ? t("session.closed", { time: clock(last.time_ms), reason: known(`reason.${last.reason}`, last.reason), text: last.text })
        : error.message;
    }
  }, (error) => {
    problem.textContent = error.status === 0 ? t("trouble.silent") : error.message;
  });
}
