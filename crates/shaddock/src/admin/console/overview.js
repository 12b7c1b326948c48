// All servers with their load, and what they do together.

import { ask, every } from "./api.js";
import { h, section } from "./dom.js";
import { bytes, count, duration, known, micros, percent, rate, t } from "./format.js";
import * as load from "./load.js";
import { plot } from "./plot.js";
import { table } from "./table.js";

/** The plots of some servers. `frontends` are those whose answers are what clients wait for. */
export function plots(ids, frontends) {
  const kinds = [
    [{ title: t("plot.sessions"), lines: [""], format: count }, () => [load.level(ids(), "sessions")]],
    [{ title: t("plot.requests"), lines: [""], format: rate }, () => [load.perSecond(ids(), "requests")]],
    [{ title: t("plot.pushes"), lines: [""], format: rate }, () => [load.perSecond(ids(), "pushes")]],
    [{ title: t("plot.times"), lines: ["p50", "p99"], format: micros }, () => [0.5, 0.99].map((share) => load.quantiles(frontends(), share))],
    [{ title: t("plot.errors"), lines: [""], format: rate }, () => [load.perSecond(ids(), "errors")]],
    [{ title: t("plot.bytes"), lines: [t("plot.in"), t("plot.out")], format: bytes }, () => ["bytes_in", "bytes_out"].map((name) => load.perSecond(ids(), name))],
  ].map(([kind, read]) => ({ ...plot(kind), read }));
  return {
    element: h("div", { class: "plots" }, kinds.map(({ element }) => element)),
    update(time) {
      for (const { update, read } of kinds) update(read(), time);
    },
  };
}

/** How a state is shown. */
export const stateOf = (server) => ({
  text: known(`state.${server.state}`, server.state),
  tone: { running: "good", draining: "warn", starting: "warn", silent: "bad" }[server.state] ?? "dim",
  title: server.unanswered?.reason,
});

function columns() {
  const sample = (server) => load.now(server.id);
  const grown = (server, name) => {
    const found = sample(server);
    return found && (found[name] * 1000) / found.span_ms;
  };
  const slowest = (server) => load.quantiles([server.id], 0.99).at(-1) ?? undefined;
  return [
    { id: "id", label: t("server.id"), cell: ({ id }) => ({ text: id, href: `#/servers/${encodeURIComponent(id)}` }) },
    { id: "type", label: t("server.type"), cell: ({ server_type }) => server_type },
    { id: "state", label: t("server.state"), cell: stateOf },
    { id: "sessions", label: t("server.sessions"), numeric: true, cell: (it) => count(it.sessions) },
    { id: "users", label: t("server.users"), numeric: true, cell: (it) => count(it.users) },
    { id: "requests", label: t("server.requests"), numeric: true, cell: (it) => rate(grown(it, "requests")) },
    { id: "slowest", label: "p99", numeric: true, cell: (it) => micros(slowest(it)) },
    { id: "flight", label: t("server.in-flight"), numeric: true, cell: (it) => count(it.in_flight) },
    { id: "cpu", label: "CPU", numeric: true, cell: (it) => percent(sample(it) && sample(it).cpu_ms / sample(it).span_ms) },
    { id: "memory", label: t("server.memory"), numeric: true, cell: (it) => bytes(sample(it)?.resident_bytes || undefined) },
    { id: "uptime", label: t("server.uptime"), numeric: true, cell: (it) => duration(it.uptime_ms) },
    { id: "version", label: t("server.version"), cell: (it) => (it.software === "shaddock" ? (it.version ?? "–") : it.software) },
    { id: "host", label: t("server.host"), cell: (it) => it.host || "–" },
  ];
}

export function overview(main, { signal }) {
  const drawn = plots(load.all, load.frontends);
  const servers = table({ caption: t("servers.title"), columns: columns(), key: ({ id }) => id, empty: t("servers.none") });
  const sum = h("p", { class: "muted", id: "sum" });
  const problem = h("p", { class: "problem", role: "alert" });
  main.replaceChildren(
    h("h1", {}, t("overview.title")),
    sum,
    problem,
    drawn.element,
    section(t("servers.title"), servers.element, h("p", { class: "muted" }, t("servers.about"))),
  );
  every(2000, signal, async () => {
    const [list, report] = await Promise.all([ask("api/cluster/servers", { signal }), load.refresh(signal)]);
    const total = (name) => list.servers.reduce((all, server) => all + (server[name] ?? 0), 0);
    sum.textContent = t("overview.sum", {
      servers: count(list.servers.length),
      sessions: count(total("sessions")),
      users: count(total("users")),
    });
    problem.textContent = "";
    servers.update(list.servers);
    drawn.update(report.now_ms);
  }, (error) => {
    problem.textContent = error.status === 0 ? t("trouble.silent") : error.message;
  });
}
