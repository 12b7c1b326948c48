// Elements without HTML texts: what comes from outside is only ever text.

const SVG = "http://www.w3.org/2000/svg";

function put(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An element: `h("a", { href, onclick }, "text", other)`. */
export const h = (name, props, ...children) => put(document.createElement(name), props, children);

/** The same, for drawings. */
export const svg = (name, props, ...children) => put(document.createElementNS(SVG, name), props, children);

/** A name for an element that others refer to. */
let last = 0;
export const newId = () => `x${++last}`;

/** Changes a text only if it differs, so that a selection stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Whether somebody works with something inside: then it is not replaced under their hands. */
export function isInUse(element) {
  const selection = document.getSelection();
  const selected = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  return selected || (element.contains(document.activeElement) && document.activeElement !== element);
}

/** Replaces what is inside, unless it is in use. */
export function renew(element, ...children) {
  if (!isInUse(element)) element.replaceChildren(...children.flat().filter(Boolean));
}

/** Names and values side by side. Each pair is `[name, value]`; those without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** A part of a page with a heading. */
export function section(title, ...children) {
  const id = newId();
  return h("section", { class: "part", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** A modal window that is gone when it is closed. */
export function openDialog(title, ...children) {
  const id = newId();
  const before = document.activeElement;
  const dialog = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), ...children);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
