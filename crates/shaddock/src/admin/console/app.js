// Which page is shown, for whom, and in which language.

import { ask, hasToken, onHealth, setToken } from "./api.js";
import { config } from "./config.js";
import { events } from "./events.js";
import { clock, languageNow, preference, setLanguage, store, t } from "./format.js";
import { forget } from "./load.js";
import { login } from "./login.js";
import { overview } from "./overview.js";
import { room, rooms } from "./rooms.js";
import { server } from "./server.js";
import { session } from "./session.js";
import { sessions } from "./sessions.js";

const $ = (id) => document.getElementById(id);
const main = $("main");

/** Paths and what shows them. What is in brackets is given to the page. */
const PAGES = [
  [/^\/$/, overview],
  [/^\/servers\/([^/]+)$/, server],
  [/^\/sessions$/, sessions],
  [/^\/sessions\/([^/]+)$/, session],
  [/^\/rooms$/, rooms],
  [/^\/rooms\/([^/]+)$/, room],
  [/^\/events$/, events],
  [/^\/config$/, config],
  [/^\/config\/([^/]+)$/, config],
];

const THEMES = ["auto", "light", "dark"];
let theme = preference("shaddock.theme", THEMES, "auto");
/** What the token allows; none before that is known. */
let who;
/** Ends what the page before asks for. */
let current = new AbortController();

const go = (path) => {
  if (location.hash === `#${path}`) render();
  else location.hash = path;
};

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function render() {
  current.abort();
  current = new AbortController();
  if (!who) return;
  const [path, query = ""] = (location.hash.slice(1) || "/").split(/\?(.*)/s);
  const found = PAGES.map(([pattern, page]) => [pattern.exec(path), page]).find(([match]) => match);
  for (const link of $("nav").querySelectorAll("a")) {
    const base = link.getAttribute("href").slice(1);
    const isIt = base === "/" ? path === "/" || path.startsWith("/servers/") : path.startsWith(base);
    if (isIt) {
      link.setAttribute("aria-current", "page");
      // On a phone not all have room.
      link.scrollIntoView({ block: "nearest", inline: "center" });
    } else {
      link.removeAttribute("aria-current");
    }
  }
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  if (!found) {
    const text = document.createElement("p");
    text.className = "empty";
    text.textContent = t("no-page");
    main.replaceChildren(text);
    return;
  }
  const [match, page] = found;
  const parts = match.slice(1).map(decoded);
  page(main, { signal: current.signal, parts, query: new URLSearchParams(query), go, who, may: { operate: who.scope === "operate" } });
  const heading = main.querySelector("h1")?.textContent;
  document.title = heading ? `${heading} – shaddock` : "shaddock";
}

/** What stands around the page, in the language and the colours of the moment. */
function frame() {
  document.documentElement.lang = languageNow() === "zh" ? "zh-CN" : "en";
  document.documentElement.dataset.theme = theme;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  // The other language, in its own words.
  $("language").textContent = languageNow() === "zh" ? "English" : "中文";
  $("language").lang = languageNow() === "zh" ? "en" : "zh-CN";
  $("theme").textContent = t(`theme.${theme}`);
  $("theme").setAttribute("aria-label", t("theme.label", { now: t(`theme.${theme}`) }));
  $("nav").hidden = !who;
  $("sign-out").hidden = !who || !hasToken();
  $("scope").hidden = !who;
  if (who) {
    $("scope").textContent = who.scope === "operate" ? t("scope.operate") : t("scope.read");
    $("scope").dataset.scope = who.scope;
    $("scope").title = t("scope.title", { name: who.name, version: who.version });
  }
}

function enter(found) {
  who = found;
  frame();
  render();
}

function askForToken(why) {
  who = undefined;
  current.abort();
  current = new AbortController();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  forget();
  frame();
  document.title = "shaddock";
  login(main, { done: enter, why });
}

/** When no answer came for the first time. */
let silentSince;
onHealth(({ isAlive, status }) => {
  if (isAlive) silentSince = undefined;
  else silentSince ??= Date.now();
  $("trouble").hidden = isAlive;
  const text = isAlive ? "" : t("trouble.since", { time: clock(silentSince) });
  if ($("trouble").textContent !== text) $("trouble").textContent = text;
  // The token was taken out of the configuration.
  if (status === 401 && who) {
    setToken("");
    askForToken(t("login.expired"));
  }
});

$("language").addEventListener("click", () => {
  setLanguage(languageNow() === "zh" ? "en" : "zh");
  frame();
  if (who) render();
  else askForToken();
});
$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  store("shaddock.theme", theme);
  frame();
});
$("sign-out").addEventListener("click", () => {
  setToken("");
  askForToken();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => {
  render();
  if (who) {
    scrollTo(0, 0);
    // A reader with a screen reader begins at the new page.
    main.focus({ preventScroll: true });
  }
});

async function start() {
  frame();
  try {
    const found = await ask("api/whoami");
    if (found.scope === "push") askForToken(t("login.push"));
    else enter(found);
  } catch (error) {
    if (error.status === 0) {
      main.textContent = "";
      setTimeout(start, 2000);
    } else if (error.status === 401) {
      setToken("");
      askForToken();
    } else {
      main.textContent = error.message;
    }
  }
}
start();
