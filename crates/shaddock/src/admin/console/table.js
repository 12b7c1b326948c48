// Tables whose rows stay the same elements while their texts change: focus and selection survive, and nothing is drawn twice.

import { h, setText } from "./dom.js";

/** What a cell shows: a text, or `{ text, href, title, tone, mono }`. */
function fill(td, shown) {
  const { text, href, title, tone } = typeof shown === "object" && shown !== null ? shown : { text: shown };
  const wanted = href ? "A" : tone ? "SPAN" : "";
  let inner = td.firstElementChild;
  if ((inner?.tagName ?? "") !== wanted) {
    td.textContent = "";
    inner = wanted ? td.appendChild(document.createElement(wanted)) : null;
  }
  const place = inner ?? td;
  setText(place, String(text ?? ""));
  if (href && inner.getAttribute("href") !== href) inner.setAttribute("href", href);
  if (tone) inner.className = `tone ${tone}`;
  if (title) td.title = title;
  else td.removeAttribute("title");
}

/**
 * A table. `columns` are `{ id, label, numeric, cell(row) }`; the first one names its row. `key(row)` tells rows apart.
 * On a narrow screen each row becomes a block of lines with their labels.
 */
export function table({ caption, columns, key, empty }) {
  const head = columns.map(({ label, numeric, id }) => h("th", { scope: "col", class: numeric ? `n c-${id}` : `c-${id}` }, label));
  const body = h("tbody");
  const none = h("p", { class: "empty", hidden: true }, empty ?? "");
  const whole = h("table", {}, h("caption", { class: "sr" }, caption), h("thead", {}, h("tr", {}, head)), body);
  const scroll = h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, whole);
  const rows = new Map();

  const newRow = () => {
    const cells = columns.map(({ id, label, numeric }, place) => {
      const props = { class: numeric ? `n c-${id}` : `c-${id}`, "data-label": label };
      return place === 0 ? h("th", { ...props, scope: "row" }) : h("td", props);
    });
    return { tr: h("tr", {}, cells), cells };
  };

  return {
    element: h("div", { class: "table" }, scroll, none),
    update(list) {
      const seen = new Set();
      let place = body.firstElementChild;
      for (const row of list) {
        const name = String(key(row));
        if (seen.has(name)) continue;
        seen.add(name);
        if (!rows.has(name)) rows.set(name, newRow());
        const { tr, cells } = rows.get(name);
        columns.forEach(({ cell }, i) => fill(cells[i], cell(row)));
        if (tr === place) place = place.nextElementSibling;
        else body.insertBefore(tr, place);
      }
      for (const [name, { tr }] of rows) {
        if (!seen.has(name)) {
          tr.remove();
          rows.delete(name);
        }
      }
      scroll.hidden = seen.size === 0;
      none.hidden = seen.size > 0;
    },
  };
}
