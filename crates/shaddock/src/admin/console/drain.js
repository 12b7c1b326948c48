// A drain: what it does is said first, then how far it is.

import { ask } from "./api.js";
import { h, newId, openDialog } from "./dom.js";
import { count, duration, t } from "./format.js";

/** Asks whether it is meant. `begun` gets what the server says. */
export function drainDialog(server, begun) {
  const shared = server.process_shared_with ?? [];
  const problem = h("p", { class: "problem", role: "alert" });
  const box = newId();
  const agree = shared.length > 0 && h("input", { type: "checkbox", id: box, onchange: () => (go.disabled = !agree.checked) });
  const lingerBox = newId();
  const linger = h("input", { id: lingerBox, size: "8", placeholder: "10m", spellcheck: "false" });
  const go = h("button", { type: "button", class: "danger", disabled: shared.length > 0 }, t("drain.go"));
  go.addEventListener("click", async () => {
    go.disabled = true;
    problem.textContent = "";
    try {
      const body = { server: server.id, whole_process: shared.length > 0 };
      if (linger.value.trim() !== "") body.linger = linger.value.trim();
      begun(await ask("api/cluster/drain", { body }));
      dialog.close();
    } catch (error) {
      problem.textContent = error.status === 0 ? t("trouble.silent") : error.message;
      go.disabled = false;
    }
  });
  const dialog = openDialog(
    t("drain.title", { id: server.id }),
    h("p", {}, t("drain.about", { sessions: count(server.sessions ?? 0) })),
    server.frontend && h("p", {}, h("label", { for: lingerBox }, t("drain.linger")), " ", linger),
    shared.length > 0 && h("p", { class: "check" }, agree, h("label", { for: box }, t("drain.shared", { ids: shared.join(", ") }))),
    problem,
    h("div", { class: "row end" }, h("button", { type: "button", onclick: () => dialog.close() }, t("cancel")), go),
  );
}

/** What is left, in words. */
function leftOf(server) {
  const left = t("drain.left", { sessions: count(server.sessions ?? 0), flight: count(server.in_flight ?? 0) });
  const { drain, sessions_relayed: relayed } = server;
  if (!drain || drain.disconnected === 0) return left;
  const elsewhere = t("drain.elsewhere", { relayed: count(relayed ?? 0), away: count(drain.away), time: duration(drain.ends_within_ms) });
  return `${left} ${elsewhere}`;
}

/** How far a drain is. `isHere`: the server runs in the process that serves this page. */
export function drainProgress(id, isHere) {
  const bar = h("progress", { max: "1", value: "0", "aria-label": t("drain.progress") });
  const said = h("p", { role: "status" });
  const element = h("div", { class: "note", hidden: true }, h("strong", {}, t("drain.running", { id })), bar, said);
  let most = 0;
  let state = "none";
  return {
    element,
    /** Whether an answer with this status means that the server has ended: it is not known any more, or its own admin server is gone with it. */
    isEnd: (status) => state === "gone" || (state === "draining" && (status === 404 || (isHere && (status === 0 || status === 503)))),
    begin(started) {
      state = "draining";
      most = Math.max(most, started.sessions);
      element.hidden = false;
      said.textContent = t("drain.left", { sessions: count(started.sessions), flight: "–" });
    },
    update(server) {
      if (state === "gone") return;
      if (server.state === "draining") state = "draining";
      if (state !== "draining") return;
      const left = server.sessions ?? 0;
      most = Math.max(most, left);
      bar.value = most === 0 ? 1 : 1 - left / most;
      element.hidden = false;
      said.textContent = leftOf(server);
    },
    gone() {
      state = "gone";
      bar.value = 1;
      element.hidden = false;
      said.textContent = isHere ? t("drain.gone-here") : t("drain.gone");
    },
  };
}
