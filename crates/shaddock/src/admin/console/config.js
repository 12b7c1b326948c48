// The effective configuration of a server with its sources. It contains no secrets.

import { ask } from "./api.js";
import { h, newId, section } from "./dom.js";
import { count, t } from "./format.js";
import { table } from "./table.js";

export function config(main, { signal, parts: [wanted], go }) {
  const [serverId, textId, setId] = [newId(), newId(), newId()];
  const choose = h("select", { id: serverId, onchange: () => go(`/config/${encodeURIComponent(choose.value)}`) });
  const filter = h("input", { id: textId, type: "search", autocomplete: "off", spellcheck: "false", oninput: () => show() });
  const isSet = h("input", { id: setId, type: "checkbox", onchange: () => show() });
  const problem = h("p", { class: "problem", role: "alert" });
  const shown = h("p", { class: "muted", role: "status" });
  const list = table({
    caption: t("config.title"),
    key: ({ key }) => key,
    empty: t("config.none"),
    columns: [
      { id: "key", label: t("config.key"), cell: ({ key, about }) => ({ text: key, title: about }) },
      { id: "value", label: t("config.value"), cell: ({ value }) => value ?? { text: t("config.hidden"), tone: "dim" } },
      { id: "origin", label: t("config.origin"), cell: ({ origin, is_set }) => (is_set ? origin : { text: t("config.default"), tone: "dim" }) },
      { id: "waits", label: t("config.reload"), cell: ({ live, waits }) => (waits ? { text: t("config.waits", { value: waits }), tone: "warn" } : live ? t("config.live") : t("config.restart")) },
      { id: "about", label: t("config.about-key"), cell: ({ about }) => about },
    ],
  });
  let keys = [];
  main.replaceChildren(
    h("h1", {}, t("config.title")),
    h("p", { class: "muted" }, t("config.about")),
    h("form", { class: "search row", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { for: serverId }, t("config.server")), choose,
      h("label", { for: textId }, t("config.filter")), filter,
      h("span", { class: "check" }, isSet, h("label", { for: setId }, t("config.only-set")))),
    problem, shown,
    section(t("config.list"), list.element),
  );

  function show() {
    const text = filter.value.trim().toLowerCase();
    const found = keys.filter((one) => (!isSet.checked || one.is_set || one.waits) && (!text || `${one.key} ${one.value ?? ""} ${one.about}`.toLowerCase().includes(text)));
    list.update(found);
    shown.textContent = keys.length > 0 ? t("config.shown", { n: count(found.length), total: count(keys.length) }) : "";
  }

  (async () => {
    try {
      const { servers } = await ask("api/cluster/servers", { signal });
      const ours = servers.filter(({ software }) => software === "shaddock");
      choose.replaceChildren(...ours.map(({ id }) => h("option", { value: id }, id)));
      const id = wanted ?? ours.find(({ here }) => here)?.id ?? ours[0]?.id;
      choose.value = id;
      keys = await ask(`api/cluster/servers/${encodeURIComponent(id)}/config`, { signal });
      show();
    } catch (error) {
      if (error.name !== "AbortError") problem.textContent = error.status === 0 ? t("trouble.silent") : error.message;
    }
  })();
}
