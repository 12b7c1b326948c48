// Recent events of sessions, and why they ended.

import { ask, every } from "./api.js";
import { h, newId, section } from "./dom.js";
import { clock, count, duration, known, t } from "./format.js";
import { sessionHref } from "./sessions.js";
import { table } from "./table.js";

const EVENTS = ["closed", "bound", "unbound", "suspended", "resumed"];
const REASONS = ["kicked", "replaced", "client_closed", "heartbeat_timeout", "handshake_timeout", "idle", "protocol", "slow_client", "draining",
  "transport", "rate_limited", "attack", "denied", "overloaded", "removed", "internal", "framing", "rejected", "expired"];

/** A table of events without the columns that say the same in every row. */
export function eventTable(caption, left = [], empty) {
  const tones = { closed: "dim", suspended: "warn", resumed: "good", bound: "good", unbound: "dim" };
  const columns = [
    { id: "time", label: t("events.time"), cell: ({ time_ms }) => clock(time_ms) },
    { id: "event", label: t("events.event"), cell: ({ event }) => ({ text: known(`event.${event}`, event), tone: tones[event] ?? "dim" }) },
    { id: "reason", label: t("reason"), cell: ({ reason, text }) => ({ text: reason ? `${known(`reason.${reason}`, reason)}${reason === "kicked" ? ` – ${text}` : ""}` : "", title: text }) },
    { id: "uid", label: t("session.uid"), cell: ({ uid }) => uid ?? "–" },
    { id: "sid", label: t("session.sid"), cell: ({ sid }) => ({ text: sid, href: sessionHref(sid) }) },
    { id: "address", label: t("session.address"), cell: ({ address }) => address ?? "–" },
    { id: "frontend", label: t("session.frontend"), cell: ({ frontend }) => frontend },
    { id: "age", label: t("events.age"), numeric: true, cell: ({ age_ms }) => duration(age_ms) },
  ].filter(({ id }) => !left.includes(id));
  return table({ caption, columns, key: ({ time_ms, sid, event }) => `${time_ms} ${sid} ${event}`, empty });
}

export function events(main, { signal, query, go }) {
  const names = ["event", "reason", "uid", "sid", "address"];
  const values = Object.fromEntries(names.map((name) => [name, query.get(name) ?? ""]));
  const choose = (name, all, of) => {
    const id = newId();
    const select = h("select", { id }, h("option", { value: "" }, all), of.map((one) => h("option", { value: one }, known(`${name}.${one}`, one))));
    select.value = values[name];
    return { name, field: select, label: h("label", { for: id }, name === "event" ? t("events.event") : t("reason")) };
  };
  const write = (name) => {
    const id = newId();
    return { name, field: h("input", { id, value: values[name], autocomplete: "off", spellcheck: "false" }), label: h("label", { for: id }, t(`session.${name}`)) };
  };
  const fields = [choose("event", t("events.all"), EVENTS), choose("reason", t("events.any-reason"), REASONS), ...["uid", "sid", "address"].map(write)];
  const search = (event) => {
    event.preventDefault();
    const given = fields.map(({ name, field }) => [name, field.value.trim()]).filter(([, value]) => value);
    go(`/events?${new URLSearchParams(given)}`);
  };
  const list = eventTable(t("events.title"), [], t("events.none"));
  const problem = h("p", { class: "problem", role: "alert" });
  const since = h("p", { class: "muted", id: "since" });
  main.replaceChildren(
    h("h1", {}, t("events.title")),
    h("p", { class: "muted" }, t("events.about")),
    h("form", { class: "search grid", role: "search", onsubmit: search, novalidate: true },
      fields.map(({ label, field }) => h("div", {}, label, field)),
      h("div", {}, h("button", { type: "submit", class: "main" }, t("where.go")))),
    problem,
    section(t("events.list"), list.element, since),
  );
  every(3000, signal, async () => {
    const page = await ask("api/cluster/events", { query: { ...values, limit: 200 }, signal });
    list.update(page.events);
    const missing = (page.unanswered ?? []).map(({ server, reason }) => t("unanswered", { server, reason }));
    problem.textContent = missing.join(" ");
    const until = page.since_ms ? t("events.since", { time: clock(page.since_ms) }) : "";
    since.textContent = `${t("events.shown", { n: count(page.events.length) })} ${until}`;
  }, (error) => {
    problem.textContent = error.status === 0 ? t("trouble.silent") : error.message;
  });
}
