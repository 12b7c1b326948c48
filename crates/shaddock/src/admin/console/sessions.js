// Sessions, a page at a time, and which ones.

import { ask, newKey } from "./api.js";
import { h, newId, section } from "./dom.js";
import { bytes, clock, count, duration, known, t } from "./format.js";
import { kickDialog } from "./kick.js";
import { table } from "./table.js";

const PAGE = 100;

export const sessionHref = (sid) => `#/sessions/${encodeURIComponent(sid)}`;
export const listHref = (where) => `#/sessions?${new URLSearchParams({ where })}`;

const columns = () => [
  { id: "sid", label: t("session.sid"), cell: ({ sid }) => ({ text: sid, href: sessionHref(sid) }) },
  { id: "uid", label: t("session.uid"), cell: ({ uid }) => uid ?? "–" },
  { id: "state", label: t("server.state"), cell: ({ state }) => ({ text: known(`state.${state}`, state), tone: { open: "good", suspended: "warn" }[state] ?? "dim" }) },
  { id: "frontend", label: t("session.frontend"), cell: ({ frontend }) => frontend },
  { id: "transport", label: t("session.transport"), cell: ({ transport }) => transport },
  { id: "client", label: t("session.client"), cell: ({ client }) => [client?.type, client?.version].filter(Boolean).join(" ") || "–" },
  { id: "address", label: t("session.address"), cell: ({ address }) => address ?? "–" },
  { id: "age", label: t("session.age"), numeric: true, cell: ({ age_ms }) => duration(age_ms) },
  { id: "in", label: t("session.in"), numeric: true, cell: (it) => ({ text: bytes(it.bytes_in), title: t("session.messages", { n: count(it.messages_in) }) }) },
  { id: "out", label: t("session.out"), numeric: true, cell: (it) => ({ text: bytes(it.bytes_out), title: t("session.messages", { n: count(it.messages_out) }) }) },
  { id: "queued", label: t("session.queued"), numeric: true, cell: ({ queued_bytes }) => bytes(queued_bytes) },
];

const EXAMPLES = ["uid = null", "transport = ws and age > 1h", "client.version < 1.4", "address = 192.0.2.0/24", "queued > 65536", "state = suspended", "settings.level >= 10"];
const FIELDS = [
  ["uid, sid, frontend, client, client.platform", "where.text"],
  ["transport, dialect, state", "where.choice"],
  ["address", "where.address"],
  ["client.version", "where.version"],
  ["age", "where.age"],
  ["queued", "where.queued"],
  ["settings.…", "where.settings"],
];

/** Shows a mistake under the text that it is in, with a mark at its column. */
function mistake(text, error) {
  if (!error.column) return [error.message];
  // Columns are counted in characters, not in halves of them.
  const [before, rest] = [Array.from(text).slice(0, error.column - 1), Array.from(text).slice(error.column - 1)];
  const mark = h("mark", {}, rest[0] ?? " ");
  return [h("code", { class: "where" }, before.join(""), mark, rest.slice(1).join("")), h("span", {}, error.message)];
}

export function sessions(main, { signal, query, may, go }) {
  const where = query.get("where") ?? "";
  const after = query.get("after") ?? "";
  const first = Number(query.get("from") ?? 0);
  const [field, said] = [newId(), newId()];
  const input = h("input", { id: field, type: "search", class: "where", value: where, spellcheck: "false", autocomplete: "off", autocapitalize: "off",
    placeholder: "transport = ws and age > 1h", "aria-describedby": said });
  const problem = h("div", { id: said, class: "problem", role: "alert" });
  const list = table({ caption: t("sessions.title"), columns: columns(), key: ({ sid }) => sid, empty: where ? t("sessions.none-match") : t("sessions.none") });
  const place = h("span", { class: "muted", role: "status", id: "place" });
  const button = (text, onclick) => h("button", { type: "button", onclick }, text);
  const at = (values) => `/sessions?${new URLSearchParams(values)}`;
  const toFirst = button(t("page.first"), () => go(at({ where })));
  const next = button(t("page.next"), () => go(at({ where, after: following, from: first + PAGE })));
  const again = button(t("refresh"), () => show());
  const kick = may.operate && h("button", { type: "button", class: "danger", disabled: true,
    onclick: () => kickDialog({ title: where ? t("kick.where", { where }) : t("kick.all"), to: where ? { where } : { all: true }, key: newKey(), done: show }) },
    where ? t("kick.these") : t("kick.all-button"));
  let following;

  const search = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text === where) show();
    else go(at(text ? { where: text } : {}));
  };
  const help = h("details", {},
    h("summary", {}, t("where.help")),
    h("p", { class: "muted" }, t("where.about")),
    h("ul", { class: "chips" }, EXAMPLES.map((one) => h("li", {}, h("a", { class: "chip", href: listHref(one) }, one)))),
    h("dl", { class: "facts" }, FIELDS.map(([names, key]) => h("div", {}, h("dt", {}, h("code", {}, names)), h("dd", {}, t(key))))));

  main.replaceChildren(
    h("h1", {}, t("sessions.title")),
    h("form", { class: "search", role: "search", onsubmit: search, novalidate: true },
      h("label", { for: field }, t("where.label")),
      h("div", { class: "row" }, input, h("button", { type: "submit", class: "main" }, t("where.go"))),
      problem),
    help,
    h("div", { class: "row actions" }, place, h("span", { class: "grow" }), again, toFirst, next, kick),
    section(t("sessions.list"), list.element),
  );
  toFirst.disabled = !after;
  next.disabled = true;

  async function show() {
    problem.replaceChildren();
    input.removeAttribute("aria-invalid");
    try {
      const page = await ask("api/cluster/sessions", { query: { where, after, limit: PAGE }, signal });
      list.element.hidden = false;
      list.update(page.sessions);
      following = page.next;
      next.disabled = !following;
      const end = first + page.sessions.length;
      const numbers = { first: count(Math.min(first + 1, end)), last: count(end), total: count(page.total), time: clock(Date.now()) };
      place.textContent = t("page.place", numbers);
      if (kick) kick.disabled = page.total === 0;
      if (page.unanswered.length > 0) problem.replaceChildren(...page.unanswered.map(({ server, reason }) => h("p", {}, t("unanswered", { server, reason }))));
    } catch (error) {
      if (error.name === "AbortError") return;
      list.element.hidden = true;
      place.textContent = "";
      input.setAttribute("aria-invalid", "true");
      problem.replaceChildren(...(error.status === 0 ? [t("trouble.silent")] : mistake(where, error)));
      if (error.column) {
        const start = Array.from(where).slice(0, error.column - 1).join("").length;
        input.focus();
        input.setSelectionRange(start, where.length);
      }
    }
  }
  show();
}
