// The demo keeps the contract of Pomelo's chat sample towards the client that is published on npm.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startDemo, until } from "./demo.js";
import { Player } from "./published-client.js";

let demo;
before(async () => (demo = await startDemo()));
after(async () => assert.equal(await demo.stop(), 0, "SIGTERM ends the demo with 0"));

const post = async (path, body) => {
  const answer = await fetch(demo.admin + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return answer.json();
};

/** A name that the gate sends to that connector. */
async function nameFor(port, prefix) {
  const asker = new Player();
  await asker.init(demo.gate);
  for (let n = 0; ; n++) {
    const entry = await asker.request("gate.gateHandler.queryEntry", { uid: `${prefix}${n}` });
    if (entry.port === port) {
      asker.leave();
      return `${prefix}${n}`;
    }
  }
}

test("the gate names a connector, and wants a uid", async () => {
  const player = new Player();
  await player.init(demo.gate);
  const entry = await player.request("gate.gateHandler.queryEntry", { uid: "alice" });
  assert.equal(entry.code, 200);
  assert.equal(entry.host, "127.0.0.1");
  assert.ok(demo.connectors.includes(entry.port));
  assert.deepEqual(await player.request("gate.gateHandler.queryEntry", { uid: "alice" }), entry);
  assert.deepEqual(await player.request("gate.gateHandler.queryEntry", { uid: "" }), { code: 500 });
  player.leave();
});

test("two people chat across connectors", async () => {
  const [ann, bob] = [new Player(), new Player()];
  const annName = await nameFor(demo.connectors[0], "ann");
  const bobName = await nameFor(demo.connectors[1], "bob");
  assert.deepEqual(await ann.enter(demo.gate, annName, "garden"), { users: [annName] });
  assert.deepEqual(await bob.enter(demo.gate, bobName, "garden"), { users: [annName, bobName] });
  assert.notEqual(ann.entry.port, bob.entry.port);
  await until(() => ann.of("onAdd").length, "onAdd");
  assert.deepEqual(ann.of("onAdd"), [{ user: bobName }]);
  assert.deepEqual(bob.of("onAdd"), [], "nobody hears of himself");

  const send = (player, content, target) =>
    player.request("chat.chatHandler.send", { rid: "garden", content, from: "forged", target });
  // Two characters, and one outside of the plane that this client's own decoder knows. Pushes of the demo have a schema.
  const text = "hello \u4f60\u597d \u{1f600}!";
  await send(ann, text, "*");
  await until(() => bob.of("onChat").length && ann.of("onChat").length, "onChat");
  const hello = { msg: text, from: annName, target: "*" };
  assert.deepEqual(bob.of("onChat"), [hello]);
  assert.deepEqual(ann.of("onChat"), [hello], "the sender hears it too");

  await send(bob, "only you", annName);
  await until(() => ann.of("onChat").length === 2, "the private message");
  assert.deepEqual(ann.of("onChat")[1], { msg: "only you", from: bobName, target: annName });
  assert.equal(bob.of("onChat").length, 1);

  bob.leave();
  await until(() => ann.of("onLeave").length, "onLeave");
  assert.deepEqual(ann.of("onLeave"), [{ user: bobName }]);
  const third = new Player();
  assert.deepEqual(await third.enter(demo.gate, "carol", "garden"), { users: [annName, "carol"] });
  ann.leave();
  third.leave();
});

test("a name is taken once per room, on whichever connector", async () => {
  const [first, second, other] = [new Player(), new Player(), new Player()];
  assert.deepEqual(await first.enter(demo.gate, "dave", "den"), { users: ["dave"] });
  // Past the gate, on the other connector.
  const elsewhere = demo.connectors.find((port) => port !== first.entry.port);
  await second.init(elsewhere);
  const again = { username: "dave", rid: "den" };
  assert.deepEqual(await second.request("connector.entryHandler.enter", again), { code: 500, error: true });
  assert.deepEqual(await other.enter(demo.gate, "dave", "attic"), { users: ["dave"] });
  first.leave();
  await until(
    async () => (await second.request("connector.entryHandler.enter", again)).users,
    "the name to be free again",
  );
  second.leave();
  other.leave();
});

test("a kick tells the client why, and the room that it left", async () => {
  const [eve, mallory] = [new Player(), new Player()];
  await eve.enter(demo.gate, "eve", "hall");
  await mallory.enter(demo.gate, "mallory", "hall");
  assert.deepEqual(await post("/api/kick", { uid: "mallory*hall", reason: "no shouting" }), { kicked: 1 });
  await until(() => mallory.of("onKick").length, "onKick");
  assert.deepEqual(mallory.of("onKick"), [{ reason: "no shouting", code: 3500 }]);
  await until(() => mallory.of("disconnect").length, "the disconnect");
  await until(() => eve.of("onLeave").length, "onLeave");
  assert.deepEqual(eve.of("onLeave"), [{ user: "mallory" }]);
  eve.leave();
});

test("heartbeats keep a silent client", { timeout: 180_000 }, async () => {
  const player = new Player();
  await player.enter(demo.gate, "frank", "quiet");
  // Longer than the server's patience of twice three seconds.
  await new Promise((resolve) => setTimeout(resolve, 7500));
  assert.deepEqual(player.of("disconnect"), []);
  const answer = await player.request("chat.chatHandler.send", { rid: "quiet", content: "x", from: "x", target: "*" });
  assert.equal(answer.code, 200);
  player.leave();
});
