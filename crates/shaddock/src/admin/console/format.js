// Language, and numbers, sizes and times as people read them.

import { TEXTS } from "./text.js";

const LANGUAGES = ["en", "zh"];
const LOCALES = { en: "en-GB", zh: "zh-CN" };

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keeps a choice of taste. A browser that keeps nothing asks again. */
export function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Private windows of some browsers.
  }
}

export const preference = (name, allowed, otherwise) => {
  const value = stored(name);
  return allowed.includes(value) ? value : otherwise;
};

const ofBrowser = (navigator.language ?? "en").toLowerCase().startsWith("zh") ? "zh" : "en";
let language = preference("shaddock.language", LANGUAGES, ofBrowser);

export const languageNow = () => language;

export function setLanguage(next) {
  language = next;
  store("shaddock.language", next);
}

/** A text of the table in the chosen language; `{name}` stands for a value. */
export function t(key, values = {}) {
  const texts = TEXTS[key];
  if (!texts) return key;
  return texts[LANGUAGES.indexOf(language)].replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** As `t`, or `otherwise` for a key that comes from the server and that this page does not know. */
export const known = (key, otherwise) => (TEXTS[key] ? t(key) : otherwise);

const formats = new Map();
function formatter(options) {
  const key = language + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(LOCALES[language], options));
  return formats.get(key);
}

const DASH = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A count. */
export const count = (value) => (isNumber(value) ? formatter({ maximumFractionDigits: 0 }).format(value) : DASH);

/** A number with three digits that say something. */
export function rate(value) {
  if (!isNumber(value)) return DASH;
  const digits = value >= 100 || value === 0 ? 0 : value >= 10 ? 1 : 2;
  return formatter({ maximumFractionDigits: digits }).format(value);
}

export const percent = (value) => (isNumber(value) ? `${rate(value * 100)} %` : DASH);

export function bytes(value) {
  if (!isNumber(value)) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? count(value) : rate(value)} ${units[unit]}`;
}

/** A short time, of microseconds. */
export function micros(value) {
  if (!isNumber(value)) return DASH;
  if (value < 1000) return `${rate(value)} µs`;
  if (value < 1_000_000) return `${rate(value / 1000)} ms`;
  return `${rate(value / 1_000_000)} s`;
}

/** How long something lasts, of milliseconds: the two largest units. */
export function duration(ms) {
  if (!isNumber(ms)) return DASH;
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86_400), "unit.d"],
    [Math.floor(seconds / 3600) % 24, "unit.h"],
    [Math.floor(seconds / 60) % 60, "unit.m"],
    [seconds % 60, "unit.s"],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return `0${t("unit.s")}`;
  return parts.slice(first, first + 2).filter(([n], i) => i === 0 || n > 0).map(([n, unit]) => `${n}${t(unit)}`).join(" ");
}

const two = (n) => String(n).padStart(2, "0");

/** A moment, of milliseconds since 1970, in the time zone of the browser. */
export function clock(ms) {
  const at = new Date(ms);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** The address without its port: `192.0.2.7:4711`, `[2001:db8::1]:4711`. */
export const withoutPort = (address) => address.replace(/^\[(.*)\]:\d+$|^([^:]*):\d+$/, "$1$2");

/** A text as a value of a predicate. */
export const quoted = (text) => `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
