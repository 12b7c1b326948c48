// Channels and topics, and who is in them.

import { ask } from "./api.js";
import { h, newId, section } from "./dom.js";
import { clock, count, quoted, t } from "./format.js";
import { listHref } from "./sessions.js";
import { table } from "./table.js";

const PAGE = 100;

export const roomHref = (key) => `#/rooms/${encodeURIComponent(key)}`;

/** A list of which a page is asked for: what is said beside it, and the ways to others. */
function pages(path, { signal, go, base, query, rows, values, said }) {
  const problem = h("div", { class: "problem", role: "alert" });
  const place = h("span", { class: "muted", role: "status" });
  const after = query.get("after") ?? "";
  const to = (more) => go(`${base}?${new URLSearchParams({ ...values, ...more })}`);
  const next = h("button", { type: "button", disabled: true }, t("page.next"));
  const first = h("button", { type: "button", disabled: !after, onclick: () => to({}) }, t("page.first"));
  const again = h("button", { type: "button", onclick: () => show() }, t("refresh"));
  async function show() {
    try {
      const page = await ask(path, { query: { ...values, after, limit: PAGE }, signal });
      rows(page);
      place.textContent = said(page);
      next.disabled = !page.next;
      next.onclick = () => to({ after: page.next });
      problem.replaceChildren(...(page.unanswered ?? []).map(({ server, reason }) => h("p", {}, t("unanswered", { server, reason }))));
    } catch (error) {
      if (error.name !== "AbortError") problem.replaceChildren(error.status === 0 ? t("trouble.silent") : error.message);
    }
  }
  show();
  return [problem, h("div", { class: "row actions" }, place, h("span", { class: "grow" }), again, first, next)];
}

export function rooms(main, { signal, query, go }) {
  const [kind, name] = [query.get("kind") ?? "", query.get("name") ?? ""];
  const [kindId, nameId] = [newId(), newId()];
  const option = (value, text) => h("option", { value, selected: value === kind }, text);
  const choose = h("select", { id: kindId }, option("", t("rooms.both")), option("topic", t("rooms.topics")), option("channel", t("rooms.channels")));
  const input = h("input", { id: nameId, type: "search", value: name, autocomplete: "off", spellcheck: "false" });
  const search = (event) => {
    event.preventDefault();
    go(`/rooms?${new URLSearchParams({ kind: choose.value, name: input.value.trim() })}`);
  };
  const list = table({
    caption: t("rooms.title"),
    key: ({ key }) => key,
    empty: name || kind ? t("rooms.none-match") : t("rooms.none"),
    columns: [
      { id: "name", label: t("rooms.name"), cell: (it) => ({ text: it.name, href: roomHref(it.key) }) },
      { id: "kind", label: t("rooms.kind"), cell: (it) => t(`rooms.${it.kind}`) },
      { id: "owner", label: t("rooms.owner"), cell: (it) => it.owner ?? "–" },
      { id: "members", label: t("rooms.members"), numeric: true, cell: (it) => count(it.members) },
      { id: "where", label: t("rooms.where"), cell: (it) => Object.entries(it.by_frontend).map(([id, n]) => `${id}: ${count(n)}`).join(", ") },
    ],
  });
  main.replaceChildren(
    h("h1", {}, t("rooms.title")),
    h("p", { class: "muted" }, t("rooms.about")),
    h("form", { class: "search row", role: "search", onsubmit: search, novalidate: true },
      h("label", { for: kindId }, t("rooms.kind")), choose,
      h("label", { for: nameId }, t("rooms.name-has")), input,
      h("button", { type: "submit", class: "main" }, t("where.go"))),
    ...pages("api/cluster/audiences", {
      signal, go, query, base: "/rooms", values: { kind, name },
      rows: (page) => list.update(page.audiences),
      said: (page) => t("rooms.shown", { n: count(page.audiences.length), time: clock(Date.now()) }),
    }),
    section(t("rooms.list"), list.element),
  );
  choose.value = kind;
}

export function room(main, { signal, query, go, parts: [key] }) {
  // `t/name` and `c/owner/life/number/name`.
  const name = key.startsWith("t/") ? key.slice(2) : key.split("/").slice(4).join("/");
  const owner = key.startsWith("c/") ? key.split("/")[1] : undefined;
  const list = table({
    caption: t("room.members"),
    key: ({ uid, frontend }) => `${uid}\n${frontend}`,
    empty: t("room.none"),
    columns: [
      { id: "uid", label: t("session.uid"), cell: ({ uid }) => ({ text: uid, href: listHref(`uid = ${quoted(uid)}`) }) },
      { id: "frontend", label: t("session.frontend"), cell: ({ frontend }) => ({ text: frontend, href: `#/servers/${encodeURIComponent(frontend)}` }) },
    ],
  });
  main.replaceChildren(
    h("h1", {}, owner ? t("room.channel", { name, owner }) : t("room.topic", { name })),
    ...pages("api/cluster/audiences/members", {
      signal, go, query, base: `/rooms/${encodeURIComponent(key)}`, values: { key },
      rows: (page) => list.update(page.members),
      said: (page) => t("room.total", { n: count(page.total), time: clock(Date.now()) }),
    }),
    section(t("room.members"), list.element),
  );
}
