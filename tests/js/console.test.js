// The console in headless Chromium: a real server, real sessions, both languages, with all rights and without.
// With SHADDOCK_SCREENSHOTS=<folder> it leaves pictures of every page.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, readdir } from "node:fs/promises";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { PATIENCE, binary, startDemo, until } from "./demo.js";
import { Player } from "./published-client.js";

const OPERATE = "operate-operate-operate";
const READ = "read-read-read-read-read";
const PUSH = "push-push-push-push-push";
const MANY = Number(process.env.SHADDOCK_CONSOLE_SESSIONS ?? 10_000);
const folder = new URL("../../crates/shaddock/src/admin/console/", import.meta.url);
const pictures = process.env.SHADDOCK_SCREENSHOTS;
const tokens = [`admin.token=${OPERATE}`, `admin.read_tokens=${READ}`, `admin.push_tokens=${PUSH}`].flatMap((one) => ["--set", one]);

let demo;
let browser;
const crowds = [];
/** Demos of single tests, which end also if the test fails. */
const others = [];

async function another(options) {
  const started = await startDemo(options);
  others.push(started);
  return started;
}

before(async () => {
  // With the demo's heartbeats of three seconds, thousands of idle clients are what a slow machine is busy with.
  demo = await startDemo({ flags: [...tokens, "--set", "protocol.heartbeat=60s"] });
  if (pictures) await mkdir(pictures, { recursive: true });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
  });
});

after(async () => {
  await browser?.close();
  for (const crowd of crowds) crowd.kill("SIGKILL");
  for (const other of others) await other.stop();
  assert.equal(await demo.stop(), 0, "SIGTERM ends the demo with 0");
});

/** An HTTP request on a connection of its own: the server closes connections that are idle, and a request on such a one fails. */
async function exchange(url, { method = "GET", headers = {}, body } = {}) {
  const sent = request(url, { method, headers, agent: false });
  sent.end(body);
  const [response] = await once(sent, "response");
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  return { status: response.statusCode, text: Buffer.concat(chunks).toString() };
}

/** The API, as a program asks it. */
async function api(path, body, server = demo) {
  const headers = { authorization: `Bearer ${OPERATE}`, "content-type": "application/json" };
  const more = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const { status, text } = await exchange(`${server.admin}/api/cluster/${path}`, { headers, ...more });
  assert.ok(status >= 200 && status < 300, `${path}: ${status} ${text}`);
  return JSON.parse(text);
}

async function call(...commands) {
  const { results } = await api("call", { commands });
  for (const { error } of results) assert.equal(error, undefined, JSON.stringify(error));
  return results;
}

const total = async (where, server = demo) =>
  (await api(`sessions?limit=1${where ? `&where=${encodeURIComponent(where)}` : ""}`, undefined, server)).total;

/** So many clients that are connected and say nothing, until they are stopped. */
async function crowd(connections, port, server = demo) {
  const before = await total("", server);
  const args = ["bench", "idle", `tcp://127.0.0.1:${port}`, "-c", connections, "--timeout", "60s", "--settle", "0s", "--hold", "30m"];
  const child = spawn(binary, args.map(String), { stdio: ["ignore", "ignore", "pipe"] });
  const log = [];
  child.stderr.on("data", (chunk) => log.push(chunk));
  crowds.push(child);
  await until(async () => {
    assert.equal(child.exitCode, null, `the clients ended: ${Buffer.concat(log)}`);
    return (await total("", server)) >= before + connections;
  }, `${connections} sessions`, 600_000);
  return {
    child,
    async leave() {
      child.kill("SIGKILL");
      await once(child, "exit");
      await until(async () => (await total()) <= before, "the clients to be gone", PATIENCE);
    },
  };
}

/** A window of its own. Errors of the page, and requests to other servers, fail the test. */
async function open({ path = "/", language = "en", token, server = demo, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, locale: language === "zh" ? "zh-CN" : "en-GB", ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(String(error)));
  page.on("console", (message) => {
    // An answer of the API that says no is a line of the console too.
    const isAnswer = message.text().startsWith("Failed to load resource: the server responded with a status of 4");
    const isGone = page.mayLose && /net::ERR_|status of 503/.test(message.text());
    if (message.type() === "error" && !isAnswer && !isGone) page.problems.push(message.text());
  });
  page.on("request", (asked) => {
    if (!asked.url().startsWith(`${server.admin}/`)) page.problems.push(`asked ${asked.url()}`);
  });
  await page.goto(`${server.admin}/console/#${path}`);
  if (token) {
    await page.fill("input[type=password]", token);
    await page.press("input[type=password]", "Enter");
    await page.waitForSelector("#nav:not([hidden])");
  }
  return page;
}

async function close(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.problems, []);
    await page.context().close();
  }
}

const shot = (page, name) => pictures && page.screenshot({ path: `${pictures}/console-${name}.png` });
const row = (page, text) => page.locator("tbody tr", { hasText: text }).first();
/** Goes on when a text stands there. */
const reads = (page, selector, text) => page.locator(selector, { hasText: text }).first().waitFor();
/** By how much a page is wider than its window, which on a phone would grow with it. */
const isTooWide = async (page) => (await page.evaluate(() => document.documentElement.scrollWidth)) - page.viewportSize().width;

test("both languages have every text, and every text has a use", async () => {
  const { TEXTS } = await import(new URL("text.js", folder));
  const names = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).toSorted();
  for (const [key, texts] of Object.entries(TEXTS)) {
    assert.equal(texts.length, 2, key);
    for (const text of texts) assert.ok(typeof text === "string" && text.trim() !== "", `${key} has an empty text`);
    assert.deepEqual(names(texts[0]), names(texts[1]), `${key} names other values`);
    const [english, chinese] = texts;
    assert.doesNotMatch(english, /[\u3400-\u9fff]/, `${key} is not English`);
    if (key !== "scope.title" && key !== "config.live" && key !== "where.choice") assert.match(chinese, /[\u3400-\u9fff]/, `${key} is not Chinese`);
  }
  const files = (await readdir(folder)).filter((name) => /\.(js|html)$/.test(name) && name !== "text.js");
  const code = (await Promise.all(files.map((name) => readFile(new URL(name, folder), "utf8")))).join("\n");
  const used = new Set([...code.matchAll(/\bt\("([\w.-]+)"|data-t(?:-label)?="([\w.-]+)"|"((?:where|unit)\.\w+)"/g)].map((match) => match[1] ?? match[2] ?? match[3]));
  // Both of a choice, and names that come from the server.
  for (const [, one, two] of code.matchAll(/\? t\("([\w.-]+)"[^:]*: t\("([\w.-]+)"/g)) used.add(one).add(two);
  const prefixes = [...code.matchAll(/(?:t|known)\(`([\w-]+)\.\$\{/g)].map(([, prefix]) => prefix);
  for (const key of used) assert.ok(TEXTS[key], `there is no text ${key}`);
  for (const key of Object.keys(TEXTS)) {
    assert.ok(used.has(key) || prefixes.some((prefix) => key.startsWith(`${prefix}.`)), `nothing uses ${key}`);
  }
});

test("the token opens it, stays in the tab, and says what may be done", { timeout: 180_000 }, async () => {
  const page = await open();
  await page.waitForSelector("form.login");
  assert.equal(await page.locator("#nav").isVisible(), false);
  await shot(page, "1-login");
  await page.fill("input[type=password]", "wrong-wrong-wrong-wrong");
  await page.press("input[type=password]", "Enter");
  await reads(page, ".problem", "This server has no such token.");
  await page.fill("input[type=password]", PUSH);
  await page.press("input[type=password]", "Enter");
  await reads(page, ".problem", "may only send messages");
  await page.fill("input[type=password]", READ);
  await page.press("input[type=password]", "Enter");
  await reads(page, "#scope", "read only");
  await reads(page, "tbody", "connector-1");
  const stored = () => page.evaluate(() => [Object.values(sessionStorage), JSON.stringify(localStorage), document.cookie]);
  assert.deepEqual(await stored(), [[READ], "{}", ""]);
  await page.reload();
  await reads(page, "#scope", "read only");
  await page.click("#sign-out");
  await page.waitForSelector("form.login");
  assert.deepEqual(await stored(), [[], "{}", ""]);
  await close(page);
});

test("without a token on this machine nothing is asked for", { timeout: 180_000 }, async () => {
  const other = await another();
  const page = await open({ server: other });
  await reads(page, "#scope", "operate");
  assert.equal(await page.locator("#sign-out").isVisible(), false);
  await reads(page, "tbody", "connector-1");
  await close(page);
  // By a stranger's name that resolves to this machine, there is neither page nor data.
  for (const path of ["/console/", "/api/whoami"]) {
    const { status } = await exchange(`${other.admin}${path}`, { headers: { host: "evil.example" } });
    assert.equal(status, 403, path);
  }
  assert.equal(await other.stop(), 0);
});

test("servers with their load, and plots that move, in both languages", { timeout: 240_000 }, async () => {
  const clients = await crowd(20, demo.connectors[0]);
  const page = await open({ token: OPERATE });
  const cell = (server, column) => row(page, server).locator(`.c-${column}`).first().textContent();
  await until(async () => (await cell("connector-1", "sessions")) === "20", "the sessions in the table", PATIENCE);
  assert.match(await cell("connector-1", "state"), /running/);
  await until(async () => /MiB/.test(await cell("connector-1", "memory")), "the memory", PATIENCE);
  // Pushes go up while messages are sent.
  const pushes = page.locator(".plot", { hasText: "Pushes a second" });
  await until(async () => {
    await call({ push: { to: { all: true }, route: "onNews", body: { n: 1 } } });
    return Number((await pushes.locator(".value").textContent()).replace(/[^\d.]/g, "")) > 0;
  }, "the plot of pushes", PATIENCE);
  // Rates and times go up while somebody chats.
  const player = new Player();
  await player.enter(demo.gate, "gina", "harbour");
  const value = (name, place = 0) => page.locator(".plot", { hasText: name }).locator(".value").nth(place).textContent();
  await until(async () => {
    for (let n = 0; n < 20; n++) await player.request("chat.chatHandler.send", { rid: "harbour", content: "hi", from: "gina", target: "*" });
    return Number((await value("Requests a second")).replace(/[^\d.]/g, "")) > 0 && / (µs|ms|s)$/.test(await value("Response time", 1));
  }, "the plots of requests and times", PATIENCE);
  assert.match(await pushes.locator("path.line").getAttribute("d"), /^M[\d.]+ [\d.]+L/);
  // The keyboard reads a plot.
  const sessions = page.locator(".plot", { hasText: "Sessions" });
  await sessions.locator("svg").focus();
  await page.keyboard.press("ArrowLeft");
  await until(async () => /\d\d:\d\d:\d\d/.test(await sessions.locator(".axis").textContent()), "a time under the cursor", PATIENCE);
  await page.keyboard.press("Escape");
  await shot(page, "2-overview");
  await page.click("#language");
  await reads(page, "h1", "总览");
  await reads(page, "tbody", "运行中");
  assert.equal(await page.getAttribute("html", "lang"), "zh-CN");
  await shot(page, "3-overview-zh");

  await page.click("tbody a:has-text('connector-1')");
  await reads(page, "h1", "connector-1");
  await reads(page, ".facts", "类型");
  await shot(page, "4-server-zh");
  await page.click("#language");
  await reads(page, "h2", "Sessions closed");
  await page.goto(`${demo.admin}/console/#/servers/chat-1`);
  await until(async () => Number(await row(page, "chatHandler.send").locator(".c-count").textContent().then((text) => text.replace(/\D/g, ""))) >= 20, "the route", PATIENCE);
  assert.match(await row(page, "chatHandler.send").locator(".c-p99").textContent(), / (µs|ms|s)$/);
  player.leave();
  await until(async () => (await total()) === 20, "the player to be gone", PATIENCE);
  await page.goto(`${demo.admin}/console/#/servers/connector-1`);
  await page.click("text=Its sessions");
  await reads(page, "#place", "of 20");
  await close(page);

  const chinese = await open({ token: READ, language: "zh", colorScheme: "dark" });
  await reads(chinese, "#scope", "只读");
  await shot(chinese, "5-overview-zh-dark");
  await close(chinese);
  await clients.leave();
});

test("one session in full, and a kick that counts first", { timeout: 240_000 }, async () => {
  const clients = await crowd(5, demo.connectors[1]);
  const { sessions } = await api("sessions?limit=5");
  const [ann, bob] = sessions.map(({ sid }) => sid);
  await call(
    { bind: { to: { sid: ann }, uid: "ann \"<b>1</b>\"" } },
    { bind: { to: { sid: bob }, uid: "bob" } },
    { set: { to: { sid: ann }, values: { level: 12, bag: { gold: 3 }, "<img src=x>": "<script>alert(1)</script>" } } },
    { join: { to: { sid: ann }, topic: "news/<i>" } },
    { join: { to: { sid: bob }, topic: "news/<i>" } },
  );
  const page = await open({ token: OPERATE, path: "/sessions?where=settings.level%20%3E%3D%2010" });
  await reads(page, "#place", "of 1");
  await page.click(`a:has-text("${ann}")`);
  await reads(page, "#about", "ann \"<b>1</b>\"");
  await reads(page, "#settings", '"gold": 3');
  await reads(page, "#settings", "<script>alert(1)</script>");
  await reads(page, "#rooms", "news/<i>");
  await reads(page, "tbody", "bound to a user");
  await reads(page, "#about", "none: it ends with its connection");
  await shot(page, "6-session");

  // The topic, and back by its member.
  await page.click("#rooms a");
  await reads(page, "h1", "Topic news/<i>");
  await reads(page, "[role=status]", "2 members");
  await page.click("tbody a:has-text('ann')");
  await reads(page, "#place", "of 1");
  await page.click(`a:has-text("${ann}")`);

  // First how many, then who.
  await page.click("button:has-text('Kick this session')");
  await reads(page, "#kick-said", "1 would be kicked (connector-2: 1).");
  await shot(page, "7-kick");
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
  assert.equal(await total(), 5, "nothing was done");
  await page.click("button:has-text('Kick this session')");
  await page.fill("dialog input[maxlength]", "flood in the arena");
  await page.click("dialog button:has-text('Kick 1')");
  await reads(page, "#kick-said", "Done: 1 kicked.");
  await page.click("dialog button:has-text('Close')");
  await reads(page, ".problem", "kicked (kicked: flood in the arena)");
  assert.equal(await page.locator("button:has-text('Kick this session')").count(), 0);
  await shot(page, "8-session-closed");

  // Another session of the same address remembers it.
  await page.goto(`${demo.admin}/console/#/sessions/${bob}`);
  const closes = page.locator("section", { hasText: "Closed sessions from this address" });
  await until(async () => (await closes.textContent()).includes("flood in the arena"), "the last close of the address", PATIENCE);

  // Of all there are, it must be said.
  await page.goto(`${demo.admin}/console/#/sessions?where=age%20%3E%200s`);
  await page.click("button:has-text('Kick these')");
  await reads(page, "#kick-said", "4 would be kicked");
  await page.click("dialog button:has-text('Kick 4')");
  await reads(page, "dialog .problem", "matches all 4 sessions");
  assert.equal(await total(), 4, "nothing was done");
  await page.check("dialog input[type=checkbox]");
  await page.click("dialog button:has-text('Kick 4')");
  await reads(page, "#kick-said", "Done: 4 kicked.");
  await page.click("dialog button:has-text('Close')");
  await reads(page, ".empty", "No session matches.");

  await page.click("nav a:has-text('Events')");
  await reads(page, "tbody", "flood in the arena");
  await page.selectOption("select >> nth=0", "bound");
  await page.click("button:has-text('Search')");
  await until(async () => (await page.locator("tbody").textContent()).includes("bob"), "the binds", PATIENCE);
  assert.equal((await page.locator("tbody").textContent()).includes("flood"), false);
  await shot(page, "9-events");
  await close(page);
  await clients.leave();
});

test("read only: everything is shown and nothing can be done", { timeout: 240_000 }, async () => {
  const clients = await crowd(3, demo.connectors[0]);
  const { sessions } = await api("sessions?limit=1");
  await call({ bind: { to: { sid: sessions[0].sid }, uid: "carol" } }, { join: { to: { uid: "carol" }, topic: "quiet" } });
  for (const language of ["en", "zh"]) {
    const page = await open({ token: READ, language });
    for (const [path, sign] of [
      ["/", "connector-1"],
      ["/servers/connector-1", "connector-1"],
      ["/sessions", sessions[0].sid],
      [`/sessions/${sessions[0].sid}`, "carol"],
      ["/rooms", "quiet"],
      ["/rooms/t%2Fquiet", "carol"],
      ["/events", "carol"],
      ["/config", "session.single_session"],
    ]) {
      await page.goto(`${demo.admin}/console/#${path}`);
      await reads(page, "main", sign);
      assert.equal(await page.locator("button.danger").count(), 0, `${path} offers something`);
      const nameless = await page.evaluate(() =>
        [...document.querySelectorAll("main input, main select")].filter((field) => field.labels.length === 0).length +
        [...document.querySelectorAll("button, a, nav, section, table")].filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label"))).length);
      assert.equal(nameless, 0, `${path} has something without a name`);
    }
    await close(page);
  }
  assert.equal(await total(), 3);
  await clients.leave();
});

test("the configuration, without its secrets", { timeout: 180_000 }, async () => {
  const page = await open({ token: READ, path: "/config" });
  await reads(page, "tbody", "admin.token");
  assert.match(await row(page, "admin.token").textContent(), /not shown.*--set/);
  const whole = await page.content();
  for (const secret of [OPERATE, PUSH, READ]) assert.equal(whole.includes(secret), false, "a secret is on the page");
  await page.check("input[type=checkbox]");
  await until(async () => (await row(page, "session.single_session").count()) === 0, "defaults to be hidden", PATIENCE);
  await page.fill("main input[type=search]", "drain.spread");
  await until(async () => (await page.locator("tbody tr").count()) === 1, "the one key", PATIENCE);
  assert.match(await row(page, "drain.spread").textContent(), /200ms/);
  await shot(page, "10-config");
  await close(page);
});

test("a mistake in a predicate is shown at its column", { timeout: 180_000 }, async () => {
  for (const [language, empty] of [["en", "No client is connected."], ["zh", "没有客户端连接。"]]) {
    const page = await open({ token: READ, language, path: "/sessions" });
    await reads(page, ".empty", empty);
    // The column is counted in characters: the orange is one of them, and two in JavaScript.
    await page.fill("input.where", 'uid = "\u{1f34a}" and age > soon');
    await page.press("input.where", "Enter");
    await reads(page, ".problem", "\"soon\" is not a time");
    assert.equal(await page.locator(".problem mark").textContent(), "s");
    assert.equal(await page.getAttribute("input.where", "aria-invalid"), "true");
    assert.equal(await page.evaluate(() => { const field = document.querySelector("input.where"); return field.value.slice(field.selectionStart); }), "soon");
    await shot(page, `11-mistake-${language}`);
    await page.fill("input.where", "uid = null");
    await page.press("input.where", "Enter");
    await reads(page, ".empty", language === "en" ? "No session matches." : "没有会话符合此条件。");
    await close(page);
  }
});

test("it fits a phone, light and dark, in both languages", { timeout: 300_000 }, async () => {
  const clients = await crowd(12, demo.connectors[0]);
  const { sessions } = await api("sessions?limit=1");
  await call({ bind: { to: { sid: sessions[0].sid }, uid: "u".repeat(120) } },
    { set: { to: { sid: sessions[0].sid }, values: { long: "x".repeat(300) } } },
    { join: { to: { sid: sessions[0].sid }, topic: "t".repeat(200) } });
  for (const [language, colorScheme] of [["en", "light"], ["zh", "dark"]]) {
    const page = await open({ token: OPERATE, language, colorScheme, viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    for (const [path, sign] of [
      ["/", "connector-1"],
      ["/servers/connector-1", "127.0.0.1"],
      ["/sessions", sessions[0].sid],
      [`/sessions/${sessions[0].sid}`, "uuu"],
      ["/rooms", "ttt"],
      ["/events", "uuu"],
      ["/config", "session.single_session"],
    ]) {
      await page.goto(`${demo.admin}/console/#${path}`);
      await reads(page, "main", sign);
      const wider = await isTooWide(page);
      assert.ok(wider <= 0, `${path} is ${wider} px too wide`);
      await shot(page, `12-phone-${language}-${path.split("/")[1] || "overview"}`);
    }
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(background, colorScheme === "light" ? "rgb(247, 247, 243)" : "rgb(18, 20, 16)");
    await page.click("#theme");
    await page.click("#theme");
    assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(18, 20, 16)", "dark is chosen");
    await close(page);
  }
  await clients.leave();
});

test("many sessions do not slow it", { timeout: 900_000 }, async (context) => {
  const clients = await crowd(MANY, demo.connectors[0]);
  const page = await open({ token: OPERATE, path: "/sessions" });
  await reads(page, "#place", `of ${MANY.toLocaleString("en-GB")}`);
  assert.equal(await page.locator("tbody tr").count(), 100);
  const nodes = () => page.evaluate(() => document.querySelectorAll("*").length);
  const first = await nodes();
  assert.ok(first < 2500, `${first} elements`);
  const times = [];
  for (const number of [101, 201, 301]) {
    const before = Date.now();
    await page.click("button:has-text('Next page')");
    await reads(page, "#place", `${number}–${number + 99} of`);
    times.push(Date.now() - before);
  }
  assert.ok((await nodes()) <= first + 20, "the page grows");
  // The longest that the page was not there for its user, while lists and plots were renewed.
  const blocked = await page.evaluate(async () => {
    location.hash = "#/";
    let [last, longest] = [performance.now(), 0];
    const end = last + 5000;
    while (last < end) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }
    return longest;
  });
  context.diagnostic(`${MANY} sessions: pages within ${times.join(", ")} ms, longest pause ${Math.round(blocked)} ms, ${first} elements`);
  await shot(page, "13-many");
  // The whole crowd is kicked at a pace, and stopped after a while.
  await page.goto(`${demo.admin}/console/#/sessions`);
  await page.click("button:has-text('Kick all')");
  await reads(page, "#kick-said", `${MANY.toLocaleString("en-GB")} would be kicked`);
  await page.fill("dialog input[type=number]", "100");
  await page.click(`dialog button:has-text('Kick ${MANY.toLocaleString("en-GB")}')`);
  await reads(page, "#kick-said", /^[1-9][\d,]* of /);
  await page.click("dialog button:has-text('Stop')");
  await reads(page, "#kick-said", "Done:");
  const left = await total();
  assert.ok(left > 0 && left < MANY, `${left} are left`);
  await close(page);
  await clients.leave();
});

test("a drain is watched to its end", { timeout: 240_000 }, async () => {
  const other = await another({ flags: [...tokens, "--set", "drain.delay=20s"] });
  await crowd(30, other.connectors[0], other);
  const page = await open({ server: other, token: OPERATE, path: "/servers/connector-1" });
  await reads(page, ".facts", "30");
  await page.click("button:has-text('Drain…')");
  await reads(page, "dialog", "closes its 30 sessions");
  await reads(page, "dialog", "Its process also runs");
  const go = page.locator("dialog button.danger");
  assert.equal(await go.isDisabled(), true, "it must be confirmed");
  await page.check("dialog input[type=checkbox]");
  page.mayLose = true;
  await go.click();
  await reads(page, ".note", "connector-1 drains");
  await reads(page, ".note", "30 sessions and 0 requests are left.");
  await shot(page, "14-drain");
  await reads(page, ".note", "Done: the process has ended");
  await reads(page, "#trouble", "has not answered since");
  await shot(page, "15-drained");
  await close(page);
  assert.equal(await other.stop(), 0);
});

test("a kick whose answer is lost is done once", { timeout: 240_000 }, async () => {
  const clients = await crowd(2, demo.connectors[0]);
  const { sessions } = await api("sessions?limit=2");
  const page = await open({ token: OPERATE, path: `/sessions/${sessions[0].sid}` });
  const keys = [];
  // First the server says that it failed, then its answer is lost on the way, and then it arrives.
  await page.route("**/api/cluster/call", async (route) => {
    if (route.request().postDataJSON().dry_run) return route.continue();
    keys.push(route.request().headers()["idempotency-key"]);
    if (keys.length === 1) {
      const error = { code: "unanswered", message: "connector-2 did not say which sessions it has" };
      return route.fulfill({ status: 200, json: { results: [{ error }] } });
    }
    const response = await route.fetch();
    return keys.length === 2 ? route.abort() : route.fulfill({ response });
  });
  await page.click("button:has-text('Kick this session')");
  await page.click("dialog button:has-text('Kick 1')");
  await reads(page, "dialog .problem", "did not say which sessions it has");
  await page.click("dialog button:has-text('Count again')");
  page.mayLose = true;
  await page.click("dialog button:has-text('Kick 1')");
  await until(async () => (await total()) === 1, "the kick", PATIENCE);
  await until(async () => (await page.locator("dialog .problem").textContent()) !== "", "the error", PATIENCE);
  await page.click("dialog button:has-text('Kick 1')");
  await reads(page, "#kick-said", "Done: 1 kicked.");
  assert.equal(keys.length, 3);
  assert.ok(keys[0] && keys[0] !== keys[1], "what failed is asked anew");
  assert.equal(keys[1], keys[2], "what may have been done is the same request");
  assert.equal(await total(), 1);
  await close(page);
  await clients.leave();
});

const lacks = ["nats-server", "etcd"].filter((program) => spawnSync(program, ["--version"]).error);

test("several processes on NATS", { timeout: 600_000, skip: lacks.length > 0 && `${lacks} not installed` }, async () => {
  const other = await another({ cluster: true, flags: [...tokens, "--set", "drain.delay=10s"] });
  await crowd(20, other.connectors[0], other);
  await crowd(10, other.connectors[1], other);
  const page = await open({ server: other, token: OPERATE });
  const cell = (server, column) => row(page, server).locator(`.c-${column}`).first().textContent();
  for (const [server, sessions] of [["connector-1", "20"], ["connector-2", "10"]]) {
    await until(async () => (await cell(server, "sessions")) === sessions, `the sessions of ${server}`, PATIENCE);
    await until(async () => /MiB/.test(await cell(server, "memory")), `the memory of ${server}`, PATIENCE);
  }
  for (const server of ["gate-1", "connector-1", "connector-2", "chat-1"]) assert.match(await cell(server, "state"), /running/);
  await shot(page, "16-cluster");

  await page.click("nav a:has-text('Sessions')");
  await reads(page, "#place", "of 30");
  await page.fill("input.where", "frontend = connector-2");
  await page.press("input.where", "Enter");
  await reads(page, "#place", "of 10");
  const sid = await page.locator("tbody a").first().textContent();
  await page.click(`tbody a:has-text("${sid}")`);
  await reads(page, "#about", "connector-2");
  await page.click("button:has-text('Kick this session')");
  await reads(page, "#kick-said", "1 would be kicked (connector-2: 1).");
  assert.equal(await total("", other), 30, "nothing was done");
  await page.click("dialog button:has-text('Kick 1')");
  await reads(page, "#kick-said", "Done: 1 kicked.");
  await page.click("dialog button:has-text('Close')");
  await until(async () => (await total("", other)) === 29, "the kick", PATIENCE);

  // The drain of another process than the one that serves the page.
  await page.goto(`${other.admin}/console/#/servers/connector-2`);
  await reads(page, ".facts", "9");
  await page.click("button:has-text('Drain…')");
  await reads(page, "dialog", "closes its 9 sessions");
  await page.locator("dialog button.danger").click();
  await reads(page, ".note", "connector-2 drains");
  await reads(page, ".note", "9 sessions and 0 requests are left.");
  await shot(page, "17-cluster-drain");
  await reads(page, ".note", "Done: the server is gone.");
  await page.goto(`${other.admin}/console/#/`);
  await until(async () => (await total("", other)) === 20, "the other sessions to stay", PATIENCE);
  await until(async () => (await cell("connector-1", "sessions")) === "20", "the table", PATIENCE);
  await close(page);
});

// `SHADDOCK_CONSOLE_PICTURE=<file>`: the picture of the guide, with a minute of traffic.
test("the picture of the guide", { timeout: 300_000, skip: !process.env.SHADDOCK_CONSOLE_PICTURE }, async () => {
  const clients = [await crowd(240, demo.connectors[0]), await crowd(160, demo.connectors[1])];
  const players = await Promise.all(["ann", "bob", "carol", "dave", "erin", "frank"].map(async (name) => {
    const player = new Player();
    await player.enter(demo.gate, name, "lobby");
    return player;
  }));
  const page = await open({ token: OPERATE, viewport: { width: 1280, height: 640 } });
  const end = Date.now() + 70_000;
  while (Date.now() < end) {
    const share = 2 + Math.sin(Date.now() / 9000) + Math.sin(Date.now() / 2300) / 3;
    await Promise.all(players.map(async (player) => {
      for (let n = 0; n < 3 * share; n++) await player.request("chat.chatHandler.send", { rid: "lobby", content: "hello", from: "x", target: "*" });
    }));
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  await page.mouse.move(0, 0);
  await page.screenshot({ path: process.env.SHADDOCK_CONSOLE_PICTURE });
  await close(page);
  for (const player of players) player.leave();
  for (const crowd of clients) crowd.child.kill("SIGKILL");
});
