// The chats of `examples/http` behind the demo: the demo's page in headless Chromium, and the client that is published on npm.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { join, joined, startDemo, startExample, until } from "./demo.js";
import { Player } from "./published-client.js";

const PATIENCE = 120_000;
let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
  });
});

after(() => browser?.close());

async function open(demo) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(String(error)));
  await page.goto(demo.page);
  return page;
}

async function say(page, text, target = "*") {
  await page.selectOption("#target", target);
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

const messages = (page) => page.locator(".message .body").allTextContents();
const hears = (page, ...wanted) =>
  until(async () => JSON.stringify(await messages(page)) === JSON.stringify(wanted), `${wanted.length} messages`, PATIENCE);

async function chat(demo) {
  const ann = await open(demo);
  await joined(ann, "ann", "lobby");
  const bob = await open(demo);
  await joined(bob, "bob", "lobby");
  await ann.waitForSelector("#members >> text=bob");
  assert.deepEqual(await bob.locator("#members li").allTextContents(), ["Aann", "Bbob (you)"]);
  await say(ann, "hello \u4f60\u597d \u{1f34a}");
  await hears(bob, "hello \u4f60\u597d \u{1f34a}");
  await say(bob, "just between us", "ann");
  await hears(ann, "hello \u4f60\u597d \u{1f34a}", "just between us");
  // A name is taken once in a room.
  const other = await open(demo);
  await join(other, "ann", "lobby");
  await other.waitForSelector("#name-error:not([hidden])");
  // The operator's half of the page knows users and rooms, and kicks.
  await ann.waitForSelector("#sessions tr:has-text('bob')");
  const row = ann.locator("#sessions tr", { hasText: "bob" });
  assert.match(await row.textContent(), /in lobby/);
  await row.locator(".kick").click();
  await ann.click("#kick-dialog .danger");
  await bob.waitForSelector("#notice:not([hidden])");
  await ann.waitForSelector(".note:has-text('bob left.')");
  // The published client, with route codes and protobuf, in the same room.
  const player = new Player();
  assert.deepEqual(await player.enter(demo.gate, "carol", "lobby"), { users: ["ann", "carol"] });
  const sent = await player.request("chat.chatHandler.send", { rid: "lobby", content: "from npm", from: "forged", target: "*" });
  assert.equal(sent.code, 200);
  await until(() => player.of("onChat").length, "its own message", PATIENCE);
  assert.deepEqual(player.of("onChat"), [{ msg: "from npm", from: "carol", target: "*" }]);
  await hears(ann, "hello \u4f60\u597d \u{1f34a}", "just between us", "from npm");
  player.leave();
  await ann.waitForSelector(".note:has-text('carol left.')");
  for (const page of [ann, bob, other]) {
    assert.deepEqual(page.problems, []);
    await page.context().close();
  }
}

for (const [file, program] of [["chat.py", "python3"], ["chat.mjs", "node"], ["chat.php", "php"], ["chat.go", "go"]]) {
  const skip = spawnSync(program, [program === "go" ? "version" : "--version"]).error && `${program} is not installed`;
  test(`the demo's page with ${file}`, { timeout: 600_000, skip }, async () => {
    const example = await startExample(file);
    let demo;
    try {
      demo = await startDemo(example);
      await chat(demo);
    } finally {
      await demo?.stop();
      await example.stop();
    }
  });
}
