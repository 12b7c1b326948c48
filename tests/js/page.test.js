// The demo's page in headless Chromium: two people chat, an operator watches and kicks.
// With SHADDOCK_SCREENSHOTS=<folder> it leaves pictures of every state.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { PATIENCE, joined, startDemo, until } from "./demo.js";

const pictures = process.env.SHADDOCK_SCREENSHOTS;
let demo;
let browser;

before(async () => {
  demo = await startDemo();
  if (pictures) await mkdir(pictures, { recursive: true });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-dev-shm-usage",
    ],
  });
});

after(async () => {
  await browser?.close();
  assert.equal(await demo.stop(), 0, "SIGTERM ends the demo with 0");
});

async function newPage(options) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE);
  return context.newPage();
}

/** A window of its own; errors of the page fail the test. */
async function open({ query = "", ...options } = {}) {
  const page = await newPage({ viewport: { width: 1360, height: 820 }, ...options });
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && page.problems.push(message.text()));
  await page.goto(`${demo.page}/${query}`);
  return page;
}

async function say(page, text, target = "*") {
  await page.selectOption("#target", target);
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

const messages = (page) => page.locator(".message .body").allTextContents();
const shot = (page, name) => pictures && page.screenshot({ path: `${pictures}/${name}.png` });

async function close(...pages) {
  for (const page of pages) {
    assert.deepEqual(page.problems, []);
    await page.context().close();
  }
}

test("two people chat, in public and in private", { timeout: 240_000 }, async () => {
  const ann = await open();
  await shot(ann, "1-join");
  await joined(ann, "ann", "lobby");
  assert.equal(await ann.textContent("#state-text").then((text) => text.startsWith("ann via port")), true);
  const bob = await open({ colorScheme: "dark" });
  await joined(bob, "bob", "lobby");
  await ann.waitForSelector("#members >> text=bob");
  assert.deepEqual(await bob.locator("#members li").allTextContents(), ["Aann", "Bbob (you)"]);

  await say(ann, "Hi Bob. Shall we look at the new map?");
  await say(bob, "<b>Sure</b>, one moment \u4f60\u597d \u{1f34a}");
  await until(async () => (await messages(ann)).length === 2, "both messages at ann's");
  await until(async () => (await messages(bob)).length === 2, "both messages at bob's");
  assert.deepEqual(await messages(bob), [
    "Hi Bob. Shall we look at the new map?",
    "<b>Sure</b>, one moment \u4f60\u597d \u{1f34a}",
  ]);
  await say(bob, "Just between us: the east gate is open.", "ann");
  await until(async () => (await messages(ann)).length === 3, "the private message");
  assert.equal(await ann.locator(".message .tag").textContent(), "private");
  assert.equal(await bob.locator(".message .tag").textContent(), "private to ann");

  // The panel shows both, and marks one's own.
  await ann.waitForSelector("#sessions tr:has-text('bob')");
  const own = ann.locator("#sessions tr", { has: ann.locator(".you") });
  assert.match(await own.textContent(), /ann.*in lobby.*connector-[12].*WS.*127\.0\.0\.1:\d+/s);
  await shot(ann, "2-chat-light");
  await shot(bob, "3-chat-dark");

  await bob.click("#leave");
  await ann.waitForSelector(".note:has-text('bob left.')");
  assert.deepEqual(await ann.locator("#members li").allTextContents(), ["Aann (you)"]);
  await close(ann, bob);
});

test("a name that is taken says so at the field", { timeout: 240_000 }, async () => {
  const first = await open();
  await joined(first, "carol", "lobby");
  const second = await open({ query: "?name=carol&room=lobby" });
  await second.click("#join-button");
  await second.waitForSelector("#name-error:not([hidden])");
  assert.match(await second.textContent("#name-error"), /called carol already/);
  assert.equal(await second.getAttribute("#name", "aria-invalid"), "true");
  await shot(second, "4-name-taken");
  await joined(second, "carola", "lobby");
  await close(first, second);
});

test("an operator kicks, and the client says why", { timeout: 240_000 }, async () => {
  const dave = await open();
  await joined(dave, "dave", "arena");
  const operator = await open({ colorScheme: "dark" });
  const row = operator.locator("#sessions tr", { hasText: "dave" });
  await row.waitFor();
  const sent = () => row.locator("td").nth(6).textContent();
  const before = await sent();
  for (let n = 0; n < 5; n++) await say(dave, `message ${n} `.repeat(40));
  await until(async () => (await sent()) !== before, "the bytes to move");
  await row.locator(".kick").click();
  await operator.fill("#kick-reason", "Please do not flood the arena");
  await shot(operator, "5-kick-dialog");
  await operator.click("#kick-dialog .danger");
  await dave.waitForSelector("#notice:not([hidden])");
  assert.equal(await dave.textContent("#notice-title"), "You were kicked from arena");
  assert.equal(await dave.textContent("#notice-text"), "Reason: Please do not flood the arena");
  assert.equal(await dave.getAttribute("#state", "data-state"), "kicked");
  await row.waitFor({ state: "detached" });
  await shot(dave, "6-kicked");
  await joined(dave, "dave", "arena");
  await close(dave, operator);
});

test("a lost connection comes back by itself, into the same room", { timeout: 240_000 }, async () => {
  const gina = await open();
  await joined(gina, "gina", "harbour");
  const hugo = await open();
  await joined(hugo, "hugo", "harbour");
  const seen = [];
  await gina.exposeFunction("stateIs", (state) => seen.push(state));
  await gina.evaluate(() => {
    const state = document.getElementById("state");
    new MutationObserver(() => window.stateIs(state.dataset.state)).observe(state, { attributeFilter: ["data-state"] });
  });
  for (let round = 1; round <= 3; round++) {
    await gina.click("#interrupt");
    // She is away, or back already: she must see it in either case.
    await say(hugo, `while she is away ${round}`);
    await until(
      async () => (await gina.locator(".note:has-text('Nothing was missed.')").count()) === round,
      `return ${round} to the same session`,
    );
    assert.equal(await gina.getAttribute("#state", "data-state"), "connected");
    assert.deepEqual((await gina.locator("#members li").allTextContents()).toSorted(), ["Ggina (you)", "Hhugo"]);
    await say(hugo, `after cut ${round}`);
    await until(async () => (await messages(gina)).length === 3 * round - 1, "both of his lines at gina's");
    await say(gina, `still here ${round}`);
    await until(async () => (await messages(gina)).length === 3 * round, "all lines at gina's");
  }
  const lines = [1, 2, 3].flatMap((round) => [`while she is away ${round}`, `after cut ${round}`, `still here ${round}`]);
  assert.deepEqual(await messages(gina), lines);
  assert.deepEqual(await messages(hugo), lines);
  await until(() => seen.includes("suspended"), "the state to be shown");
  await shot(gina, "10-reconnected");
  await close(gina, hugo);
});

// As a cluster the demo's first process holds no clients.
const oneProcess = { timeout: 240_000, skip: Boolean(process.env.SHADDOCK_DEMO_CLUSTER) };
test("a server that hangs is noticed, and found again", oneProcess, async () => {
  const other = await startDemo();
  const page = await newPage();
  await page.goto(other.page);
  await joined(page, "jack", "harbour");
  other.signal("SIGSTOP");
  await page.waitForSelector("#state[data-state='suspended']", { timeout: PATIENCE });
  await say(page, "is anybody there?");
  other.signal("SIGCONT");
  await page.waitForSelector(".note:has-text('Reconnected.')", { timeout: PATIENCE });
  // Either the message waited for the session, or it could not be sent and the page gave the text back.
  if (await page.locator(".note:has-text('not sent')").count()) {
    assert.equal(await page.inputValue("#text"), "is anybody there?");
    await page.press("#text", "Enter");
  }
  await page.waitForSelector(".message .body:has-text('is anybody there?')");
  assert.equal((await messages(page)).length, 1);
  await page.context().close();
  assert.equal(await other.stop(), 0);
});

test("nothing said into a dead connection hangs", { timeout: 240_000 }, async () => {
  const page = await open();
  await joined(page, "iris", "harbour");
  await page.click("#interrupt");
  await say(page, "into the void");
  await until(async () => (await messages(page)).length || (await page.locator(".note:has-text('not sent')").count()), "the message or a note");
  await page.waitForSelector("#state[data-state='connected']");
  await page.click("#leave");
  await page.waitForSelector("#join:not([hidden])");
  await close(page);
});

test("it fits a phone", { timeout: 240_000 }, async () => {
  const page = await open({ viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 });
  await joined(page, "erin", "lobby");
  await say(page, "Hello from a small screen");
  await page.waitForSelector(".message");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} px too wide`);
  await page.waitForSelector("#sessions tr");
  await shot(page, "7-phone");
  if (pictures) await page.screenshot({ path: `${pictures}/8-phone-whole.png`, fullPage: true });
  await close(page);
});

test("a server that goes away is told apart from a kick", { timeout: 240_000 }, async () => {
  const other = await startDemo();
  const page = await newPage();
  await page.goto(other.page);
  await joined(page, "frank", "lobby");
  await page.waitForSelector("#sessions tr:has-text('frank')");
  assert.equal(await other.stop(), 0);
  await page.waitForSelector("#notice:not([hidden])");
  assert.equal(await page.textContent("#notice-title"), "The server is going down");
  await page.waitForSelector("#live[data-live='error']");
  await shot(page, "9-gone");
  await page.context().close();
});
