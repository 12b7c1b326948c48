// Small plots of the last ten minutes. The number beside the name is the newest one, or the one under the pointer or the arrow keys.

import { h, svg, setText, newId } from "./dom.js";
import { clock, duration, t } from "./format.js";
import { stepMs } from "./load.js";

const WIDTH = 300;
const HEIGHT = 72;

/** A round number that is not less. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) * power;
}

/** The path of a line; it is broken where nothing is known. */
function path(values, top) {
  let text = "";
  let isDown = false;
  values.forEach((value, i) => {
    if (value === null) {
      isDown = false;
      return;
    }
    const x = (i * WIDTH) / (values.length - 1);
    const y = HEIGHT - (value / top) * (HEIGHT - 2) - 1;
    text += `${isDown ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    isDown = true;
  });
  return text;
}

/** `lines` are names, `format` makes a text of a number. */
export function plot({ title, lines, format }) {
  const id = newId();
  const shown = lines.map((name, i) => ({ name, value: h("span", { class: `value line-${i}` }), line: svg("path", { class: `line line-${i}`, fill: "none" }) }));
  const legend = shown.map(({ name, value }) => h("span", { class: "now" }, name && h("span", { class: "name" }, name), value));
  const cursor = svg("path", { class: "cursor", fill: "none" });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: "0", "aria-labelledby": `${id} ${id}s` },
    svg("path", { class: "grid", d: `M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
    shown.map(({ line }) => line),
    cursor,
  );
  const most = h("span", {});
  const span = h("span", {});
  const said = h("span", { id: `${id}s`, class: "sr" });
  const element = h(
    "figure",
    { class: "plot" },
    h("figcaption", {}, h("span", { class: "title", id }, title), h("span", { class: "values" }, legend)),
    picture,
    h("div", { class: "axis", "aria-hidden": "true" }, most, span),
    said,
  );
  let data = lines.map(() => []);
  let place = null;
  let newest = 0;

  function show() {
    const length = data[0].length;
    shown.forEach(({ value }, i) => {
      const at = place ?? data[i].findLastIndex((one) => one !== null);
      setText(value, format(data[i][at] ?? undefined));
    });
    const at = place === null ? "" : clock(newest - (length - 1 - place) * stepMs());
    setText(span, at || (length > 0 ? t("plot.span", { time: duration(length * stepMs()) }) : t("plot.none")));
    const x = place === null ? 0 : (place * WIDTH) / (length - 1);
    cursor.setAttribute("d", place === null ? "" : `M${x.toFixed(1)} 0V${HEIGHT}`);
  }

  function move(to) {
    const length = data[0].length;
    place = to === null || length < 2 ? null : Math.min(length - 1, Math.max(0, to));
    show();
  }

  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    move(Math.round(((event.clientX - box.left) / box.width) * (data[0].length - 1)));
  });
  picture.addEventListener("pointerleave", () => move(null));
  picture.addEventListener("blur", () => move(null));
  picture.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") move(null);
    if (!way) return;
    event.preventDefault();
    move((place ?? data[0].length - 1) + way);
  });

  return {
    element,
    /** One list of numbers for each line; null where nothing is known. `time` is that of the last. */
    update(next, time) {
      data = next;
      newest = time;
      const highest = Math.max(0, ...data.flat().filter((value) => value !== null));
      const top = ceiling(highest);
      shown.forEach(({ line }, i) => line.setAttribute("d", data[i].length > 1 ? path(data[i], top) : ""));
      element.classList.toggle("blank", data[0].length === 0);
      setText(most, data[0].length > 0 ? format(top) : "");
      const words = shown.map(({ name }, i) => `${name} ${format(data[i].findLast((one) => one !== null) ?? undefined)}`.trim());
      setText(said, t("plot.said", { now: words.join(", "), most: format(highest) }));
      show();
    },
  };
}
