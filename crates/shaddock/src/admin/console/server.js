// One server: what it is, its plots, its routes, why its sessions end; and its drain.

import { ask, every } from "./api.js";
import { facts, h, renew, section, setText } from "./dom.js";
import { drainDialog, drainProgress } from "./drain.js";
import { count, duration, known, micros, rate, t } from "./format.js";
import * as load from "./load.js";
import { plots, stateOf } from "./overview.js";
import { table } from "./table.js";

const total = (counts) => counts.reduce((sum, n) => sum + n, 0);

function routeTable(caption, name, empty) {
  let before = new Map();
  let bounds = [];
  let ms = 0;
  const since = ({ route, answers }) => {
    const then = before.get(route);
    return then === undefined || ms <= 0 ? undefined : ((total(answers) - total(then)) * 1000) / ms;
  };
  const time = (share) => ({ answers }) => micros(load.quantile(answers, bounds, share) ?? undefined);
  const made = table({
    caption,
    key: ({ route }) => route,
    empty,
    columns: [
      { id: "route", label: name, cell: ({ route }) => known(`calls.${route}`, route) },
      { id: "rate", label: t("route.rate"), numeric: true, cell: (it) => rate(since(it)) },
      { id: "count", label: t("route.count"), numeric: true, cell: ({ answers }) => count(total(answers)) },
      { id: "p50", label: "p50", numeric: true, cell: time(0.5) },
      { id: "p99", label: "p99", numeric: true, cell: time(0.99) },
      { id: "errors", label: t("route.errors"), numeric: true, cell: ({ errors }) => count(errors) },
      { id: "panics", label: t("route.panics"), numeric: true, cell: ({ panics }) => count(panics) },
      { id: "blocked", label: t("route.blocked"), numeric: true, cell: ({ blocked }) => count(blocked) },
    ],
  });
  let last = 0;
  return {
    element: made.element,
    update(rows, work) {
      bounds = work.bounds_us;
      ms = last === 0 ? 0 : work.time_ms - last;
      made.update(rows);
      last = work.time_ms;
      before = new Map(rows.map(({ route, answers }) => [route, answers]));
    },
  };
}

function reasons(caption, empty) {
  const made = table({
    caption,
    empty,
    key: ([reason]) => reason,
    columns: [
      { id: "reason", label: t("reason"), cell: ([reason]) => ({ text: known(`reason.${reason}`, reason), title: reason }) },
      { id: "count", label: t("route.count"), numeric: true, cell: ([, n]) => count(n) },
    ],
  });
  return { element: made.element, update: (counts) => made.update(Object.entries(counts).sort(([, a], [, b]) => b - a)) };
}

export function server(main, { signal, parts: [id], may, who }) {
  const ids = () => [id];
  const drawn = plots(ids, ids);
  const routes = routeTable(t("server.routes"), t("route.route"), t("server.no-routes"));
  const calls = routeTable(t("server.calls"), t("route.kind"), t("server.no-calls"));
  const closed = reasons(t("server.closed"), t("server.none-closed"));
  const refused = reasons(t("server.refused"), t("server.none-refused"));
  const dropped = reasons(t("server.dropped"), t("server.none-dropped"));
  const [about, state] = [h("div", { class: "box" }), h("span", { class: "tone dim" })];
  const metadata = h("pre", {});
  const progress = drainProgress(id, who.servers.includes(id));
  const drain = may.operate && h("button", { type: "button", class: "danger", onclick: () => drainDialog(latest, progress.begin), disabled: true }, t("drain.button"));
  const problem = h("p", { class: "problem", role: "alert" });
  let latest;
  main.replaceChildren(
    h("h1", {}, id, " ", state),
    problem,
    h("div", { class: "row actions" },
      h("a", { class: "button", href: `#/sessions?${new URLSearchParams({ where: `frontend = "${id}"` })}` }, t("server.its-sessions")),
      h("a", { class: "button", href: `#/config/${encodeURIComponent(id)}` }, t("server.its-config")),
      drain),
    progress.element,
    about,
    drawn.element,
    section(t("server.routes"), routes.element),
    section(t("server.calls"), calls.element),
    h("div", { class: "columns" },
      section(t("server.closed"), closed.element),
      section(t("server.refused"), refused.element),
      section(t("server.dropped"), dropped.element)),
    h("details", {}, h("summary", {}, t("server.metadata")), metadata),
  );

  const path = `api/cluster/servers/${encodeURIComponent(id)}`;
  const failed = (error) => {
    if (progress.isEnd(error.status)) progress.gone();
    else problem.textContent = error.status === 404 ? t("server.not-there") : error.status === 0 ? t("trouble.silent") : error.message;
  };
  every(1000, signal, async () => {
    latest = await ask(path, { signal });
    problem.textContent = latest.unanswered?.reason ?? "";
    const { text, tone } = stateOf(latest);
    state.textContent = text;
    state.className = `tone ${tone}`;
    if (drain) drain.disabled = latest.state !== "running";
    progress.update(latest);
    renew(about, facts([
      [t("server.type"), latest.server_type],
      [t("server.host"), latest.host],
      [t("server.version"), latest.version ?? latest.software],
      [t("server.uptime"), latest.uptime_ms && duration(latest.uptime_ms)],
      [t("server.sessions"), latest.sessions === undefined ? "" : count(latest.sessions)],
      [t("server.users"), latest.users === undefined ? "" : count(latest.users)],
      [t("server.in-flight"), latest.in_flight === undefined ? "" : count(latest.in_flight)],
      [t("server.addresses"), (latest.addresses ?? []).join(", ")],
      [t("server.shared"), (latest.process_shared_with ?? []).join(", ")],
      [t("server.suspected"), (latest.suspected_by ?? []).join(", ")],
    ]));
    setText(metadata, Object.entries(latest.metadata).map(([key, value]) => `${key}: ${value}`).join("\n"));
  }, failed);
  every(2000, signal, async () => drawn.update((await load.refresh(signal)).now_ms), failed);
  every(4000, signal, async () => {
    const work = await ask(`${path}/work`, { signal });
    routes.update(work.routes, work);
    calls.update(work.calls.filter(({ answers }) => total(answers) > 0), work);
    closed.update(work.closed);
    refused.update(work.refused);
    dropped.update(work.dropped);
  }, failed);
}
