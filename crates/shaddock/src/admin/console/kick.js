// A kick: first it is counted who is meant, then it is done.

import { ask, command, newKey } from "./api.js";
import { h, newId, openDialog } from "./dom.js";
import { count, t } from "./format.js";

/** Above so many, a pace is offered. */
const MANY = 100;

const places = (byFrontend = {}) => Object.entries(byFrontend).map(([id, n]) => `${id}: ${count(n)}`).join(", ");

/** `to` says who, as in the API. `done` is called when somebody was kicked. */
export function kickDialog({ title, to, key, done }) {
  const [reasonId, paceId, allId] = [newId(), newId(), newId()];
  const reason = h("input", { id: reasonId, maxlength: "256", autocomplete: "off", placeholder: "kicked by an operator" });
  const pace = h("input", { id: paceId, type: "number", min: "0", max: "100000", step: "1", value: "0", inputmode: "numeric" });
  const paceRow = h("p", { hidden: true }, h("label", { for: paceId }, t("kick.pace")), pace);
  const all = h("input", { id: allId, type: "checkbox" });
  const allRow = h("p", { class: "check", hidden: true }, all, h("label", { for: allId }, t("kick.everybody")));
  const said = h("p", { role: "status", class: "said", id: "kick-said" }, t("kick.counting"));
  const problem = h("div", { class: "problem", role: "alert" });
  const bar = h("progress", { max: "1", value: "0", hidden: true, "aria-label": t("kick.progress") });
  const button = (name, text, onclick) => h("button", { type: "button", class: name, onclick }, text);
  const go = button("danger", t("kick.go-none"), () => kick());
  const recount = button("", t("kick.count-again"), () => look());
  const stop = button("danger", t("kick.stop"), () => ask(`api/cluster/jobs/${job}/stop`, { body: {} }).catch(fail));
  const close = button("", t("cancel"), () => dialog.close());
  go.disabled = true;
  stop.hidden = true;
  let job;
  let isOpen = true;
  const dialog = openDialog(
    title,
    said,
    bar,
    h("p", {}, h("label", { for: reasonId }, t("kick.reason")), reason),
    paceRow,
    allRow,
    problem,
    h("div", { class: "row end" }, recount, close, stop, go),
  );
  dialog.addEventListener("close", () => {
    isOpen = false;
  });

  const fail = (error) => {
    problem.replaceChildren(h("p", {}, error.status === 0 ? t("trouble.silent") : error.message));
  };
  const unanswered = (list = []) =>
    problem.replaceChildren(...list.map(({ server, reason: why }) => h("p", {}, t("unanswered", { server, reason: why }))));
  const target = () => (to.where && all.checked ? { ...to, all: true } : to);

  async function look() {
    go.disabled = true;
    problem.replaceChildren();
    said.textContent = t("kick.counting");
    try {
      const found = await command({ kick: { to } }, { dryRun: true });
      said.textContent = found.matched === 0 ? t("kick.nobody") : t("kick.would", { n: count(found.matched), places: places(found.by_frontend) });
      go.textContent = found.matched === 0 ? t("kick.go-none") : t("kick.go", { n: count(found.matched) });
      go.disabled = found.matched === 0;
      paceRow.hidden = found.matched <= MANY;
      unanswered(found.unanswered);
    } catch (error) {
      said.textContent = "";
      fail(error);
    }
  }

  async function kick() {
    for (const one of [go, recount]) one.disabled = true;
    problem.replaceChildren();
    const text = reason.value.trim();
    const order = { kick: { to: target(), ...(text && { reason: text }) } };
    try {
      const perSecond = paceRow.hidden ? 0 : Math.max(0, Math.floor(Number(pace.value) || 0));
      const ended = await command(order, { perSecond, key });
      if (ended.job) await follow(ended.job);
      else finish(ended);
    } catch (error) {
      fail(error);
      recount.disabled = false;
      // The command was answered, with a failure: another try is another request.
      if (error.status === 200) key = newKey();
      if (error.code !== "everybody") {
        // Whether something was done is not known: the same request, sent again, is not carried out twice.
        go.disabled = error.status !== 0;
        return;
      }
      allRow.hidden = false;
      all.onchange = () => {
        key = newKey();
        go.disabled = !all.checked;
      };
      all.focus();
    }
  }

  async function follow(id) {
    job = id;
    bar.hidden = false;
    stop.hidden = false;
    close.textContent = t("close");
    for (;;) {
      const status = await ask(`api/cluster/jobs/${id}`);
      bar.value = status.matched === 0 ? 1 : 1 - status.left / status.matched;
      said.textContent = t("kick.under-way", { done: count(status.done), matched: count(status.matched) });
      if (!status.running) return finish(status);
      if (!isOpen) return undefined;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  function finish({ done: n = 0, failed = 0, errors = [], unanswered: missing = [] }) {
    said.textContent = failed > 0 ? t("kick.done-partly", { n: count(n), failed: count(failed) }) : t("kick.done", { n: count(n) });
    problem.replaceChildren(...errors.map((text) => h("p", {}, text)), ...missing.map(({ server, reason: why }) => h("p", {}, t("unanswered", { server, reason: why }))));
    for (const one of [go, recount, stop, allRow]) one.hidden = true;
    close.textContent = t("close");
    close.focus();
    done?.();
  }

  look();
}
