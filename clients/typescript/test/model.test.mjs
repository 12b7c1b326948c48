// resume.md, section 10, points 1 and 2, at the client's end: any interleaving of requests, notifies, pushes and cuts at any byte. What the
// applications at both ends see is compared with what was put in: everything, once, in order.
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { parts } from "./parts.mjs";
import { World } from "./fake.mjs";

const RUNS = Number(process.env.RUNS ?? 1500);
const turns = async () => {
  for (let n = 0; n < 4; n++) await null;
};

function random(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

async function schedule(seed, cutOdds) {
  const dice = random(seed);
  const world = new World({ ack: 1 + dice(6) });
  const client = new parts.Client("mem:", { transport: world.transport, reconnect: { min: 1, max: 1, attempts: 1000 }, requestTimeout: 1e9, connectTimeout: 1e9 });
  const heard = [];
  const answers = [];
  let restarts = 0;
  client.onPush("onN", ({ n }) => {
    heard.push(n);
    // An application that cuts its own connection while it is told something.
    if (dice(40) === 0) client.interrupt();
  });
  client.on("restarted", () => restarts++);
  client.on("closed", (reason) => assert.fail(`seed ${seed}: closed ${reason}`));
  let ready = false;
  client.connect().then(() => (ready = true));

  const pump = async (whole) => {
    for (const wire of world.wires) {
      world.toServer(wire, whole ? 1e9 : 1 + dice(30));
      world.toClient(wire, whole ? 1e9 : 1 + dice(30));
    }
    world.wires = world.wires.filter((wire) => !(wire.clientGone && (!wire.up.length || !wire.open)));
    await turns();
    mock.timers.tick(2);
  };
  while (!ready) await pump(true);
  const session = [...world.sessions.values()][0];

  let asked = 0;
  let pushed = 0;
  const requests = [];
  for (let step = 0; step < 60; step++) {
    const act = dice(10);
    if (act < 2) {
      const n = asked++;
      requests.push(n);
      client.request("a.b.c", { n }).then((answer) => answers.push(answer.n));
    } else if (act < 4) client.notify("a.b.d", { n: asked++ });
    else if (act < 6) world.push(session, pushed++);
    else await pump(false);
    if (dice(100) < cutOdds && world.wires.length) world.cut(world.wires[dice(world.wires.length)]);
  }
  for (let n = 0; n < 30; n++) await pump(true);
  const wanted = (count) => Array.from({ length: count }, (_, n) => n);
  assert.deepEqual(session.ran, wanted(asked), `seed ${seed}: what ran`);
  assert.deepEqual(heard, wanted(pushed), `seed ${seed}: what was pushed`);
  assert.deepEqual(answers, requests, `seed ${seed}: answers`);
  assert.equal(restarts, 0, `seed ${seed}`);
  return world.tokens;
}

test(`${RUNS} schedules: everything arrives, once and in order`, async () => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    let connections = 0;
    for (let seed = 1; seed <= RUNS; seed++) connections += await schedule(seed, seed % 25);
    assert.ok(connections > RUNS * 2, `only ${connections} connections: hardly anything was cut`);
  } finally {
    mock.timers.reset();
  }
});

test("a gap: what is left arrives in order, and the application is told how much it missed", async () => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    for (let seed = 1; seed <= 300; seed++) {
      const dice = random(seed);
      const world = new World({ ack: 3 });
      const client = new parts.Client("mem:", { transport: world.transport, reconnect: { min: 1, max: 1 } });
      const heard = [];
      let missed = 0;
      client.onPush("onN", ({ n }) => heard.push(n));
      client.on("resumed", (event) => (missed += event.missed));
      const pump = async () => {
        for (const wire of world.wires) {
          world.toServer(wire, 1e9);
          world.toClient(wire, 1e9);
        }
        await turns();
        mock.timers.tick(2);
      };
      client.connect();
      for (let n = 0; n < 4; n++) await pump();
      const session = [...world.sessions.values()][0];
      let pushed = 0;
      for (let round = 0; round < 5; round++) {
        for (let n = dice(6); n > 0; n--) world.push(session, pushed++);
        // Some of it arrives, and is acknowledged or not; then the rest is lost on the way, and some of what is kept is forgotten.
        const wire = world.wires[world.wires.length - 1];
        world.toClient(wire, dice(80));
        world.toServer(wire, 1e9);
        world.cut(wire);
        session.wire = null;
        for (let n = dice(6); n > 0; n--) world.push(session, pushed++);
        world.forget(session, dice(session.kept.length + 1));
        for (let n = 0; n < 5; n++) await pump();
      }
      assert.equal(heard.length + missed, pushed, `seed ${seed}: ${heard.length} heard, ${missed} missed, ${pushed} pushed`);
      assert.ok(heard.every((n, at) => at === 0 || n > heard[at - 1]), `seed ${seed}: ${heard}`);
    }
  } finally {
    mock.timers.reset();
  }
});
