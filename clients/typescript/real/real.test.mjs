// Our client against servers of others, unmodified, and against shaddock's demo. Only the last one offers resume.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { Client, ClientError, connect, webSocket } from "../dist/index.js";
import { nodeTcp } from "../dist/node-tcp.js";
import { WebSocket } from "../node_modules/ws/wrapper.mjs";
import { cuttingProxy, freePorts, listening, run, startPitaya, startPomelo } from "./servers.mjs";

/** Long, for a machine that may be slow and busy. */
const patience = { requestTimeout: 60_000, connectTimeout: 60_000 };
const options = (url, more) => ({ transport: url.startsWith("tcp") ? nodeTcp() : webSocket(WebSocket), reconnect: { min: 20, max: 200, attempts: 1000 }, ...patience, ...more });
const event = (client, name) => new Promise((resolve) => client.on(name, resolve));
const push = (client, route) => new Promise((resolve) => client.onPush(route, resolve));

async function atPomelo(scheme, port) {
  const url = `${scheme}://127.0.0.1:${port}`;
  const client = await connect(url, options(url));
  assert.equal(client.resumable, false);
  let suspended = 0;
  client.on("suspended", () => suspended++);
  const enter = () => client.request("connector.entryHandler.enter", { uid: `user of ${scheme}` });
  assert.deepEqual(await enter(), { ok: true });
  const pushed = push(client, "onX");
  const body = { n: -5, s: "hi \u4f60\u597d" };
  const { n, s } = await client.request("connector.entryHandler.echo", body);
  assert.deepEqual({ n, s }, body);
  assert.deepEqual(await pushed, { n: 7 });
  assert.deepEqual(await client.request("connector.entryHandler.nothing"), { code: 500 });
  // The server's interval is three seconds: after three of them, both ends have lived on each other's heartbeats. With a shorter one, a pause of
  // a busy machine would be a lost connection.
  await new Promise((resolve) => setTimeout(resolve, 9500));
  assert.equal(client.state, "open");
  assert.equal(suspended, 0);
  const restarted = event(client, "restarted");
  const inFlight = assert.rejects(client.request("connector.entryHandler.echo", body), { code: "lost" });
  client.interrupt();
  await inFlight;
  await restarted;
  assert.deepEqual(await enter(), { ok: true });
  const [kicked, closed] = [event(client, "kicked"), event(client, "closed")];
  const unanswered = assert.rejects(client.request("connector.entryHandler.kick"), { code: "closed" });
  assert.equal(await kicked, "out");
  assert.equal(await closed, "kicked");
  await unanswered;
}

for (const kind of ["pomelo", "pinus"]) {
  test(`${kind}: dictionary, protobuf, heartbeats, a cut, a kick`, { timeout: 300_000 }, async () => {
    const server = await startPomelo(kind);
    try {
      await Promise.all(["ws", "tcp"].map((scheme) => atPomelo(scheme, server.port)));
    } catch (error) {
      error.message += `\n${server.log().slice(-2000)}`;
      throw error;
    } finally {
      await server.stop();
    }
  });
}

test("pitaya: compression, error answers, heartbeats, a cut", { timeout: 300_000 }, async () => {
  const folder = mkdtempSync(`${tmpdir()}/shaddock-go-`);
  const program = process.env.PITAYA_INTEROP ?? `${folder}/pitaya`;
  let server;
  try {
    if (!process.env.PITAYA_INTEROP) execFileSync("go", ["build", "-o", program, "."], { cwd: fileURLToPath(new URL("../../../interop/pitaya", import.meta.url)) });
    server = await startPitaya(program);
    const url = `tcp://127.0.0.1:${server.port}`;
    const client = await connect(url, options(url, { dialect: "pitaya" }));
    const text = "long enough to be compressed, ".repeat(50);
    assert.deepEqual(await client.request("room.room.echo", { text }), { text });
    await assert.rejects(client.request("room.room.fail", { text: "luck" }), (error) => {
      assert.ok(error instanceof ClientError);
      assert.deepEqual([error.code, error.body.code, error.body.metadata], ["answer", "ROOM-7", { what: "luck" }]);
      return true;
    });
    client.notify("room.room.say", { text: "heard" });
    assert.deepEqual(await client.request("room.room.heard"), { text: "heard" });
    const restarted = event(client, "restarted");
    client.interrupt();
    await restarted;
    assert.deepEqual(await client.request("room.room.echo", { text: "again" }), { text: "again" });
    client.close();
  } finally {
    await server?.stop();
    rmSync(folder, { recursive: true });
  }
});

const target = process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL("../../../target", import.meta.url));
const binary = process.env.SHADDOCK_BIN ?? `${target}/debug/shaddock`;
/** The demo on ports of its own; `again()` starts another one on the same ports. */
async function startDemo() {
  const [gate, first, second, page, admin] = await freePorts(5);
  const ports = ["--gate-port", gate, "--connector-ports", `${first},${second}`, "--page-port", page];
  const start = async () => {
    const server = run(binary, ["demo", ...ports, "--set", `admin.address=127.0.0.1:${admin}`, "--set", "drain.spread=200ms"]);
    for (const port of [gate, first, second]) await listening(port, server);
    return server;
  };
  return { gate, connector: first, server: await start(), again: start };
}

test("shaddock: gate, connector, room", { timeout: 240_000, skip: !existsSync(binary) && "it is not built" }, async () => {
  const { gate, server } = await startDemo();
  try {
    for (const scheme of ["ws", "tcp"]) {
      const url = (port) => `${scheme}://127.0.0.1:${port}`;
      const asker = await connect(url(gate), options(scheme));
      const entry = await asker.request("gate.gateHandler.queryEntry", { uid: "ann" });
      asker.close();
      const client = new Client(url(entry.port), options(scheme));
      const chat = push(client, "onChat");
      await client.connect();
      const rid = `room-${scheme}`;
      const enter = () => client.request("connector.entryHandler.enter", { username: "ann", rid });
      assert.deepEqual((await enter()).users, ["ann"]);
      await client.request("chat.chatHandler.send", { rid, content: "hi \u{1f34a}", from: "ann", target: "*" });
      assert.equal((await chat).msg, "hi \u{1f34a}");
      client.close();
      await assert.rejects(client.request("chat.chatHandler.send", {}), { code: "closed" });
    }
  } finally {
    await server.stop();
  }
});

const shaddock = (timeout) => ({ timeout, skip: !existsSync(binary) && "it is not built" });
const quick = { reconnect: { min: 5, max: 50, attempts: 10_000 } };

/** Enters a room, and gives back what is said there by number. */
async function inRoom(client, rid, name = "ann") {
  const heard = [];
  client.onPush("onChat", ({ msg }) => heard.push(Number(msg)));
  await client.connect();
  const enter = () => client.request("connector.entryHandler.enter", { username: name, rid });
  await enter();
  const say = (n) => client.request("chat.chatHandler.send", { rid, content: String(n), from: name, target: "*" });
  return { heard, enter, say };
}

const numbers = (upTo) => Array.from({ length: upTo }, (_, index) => index + 1);
/** Waits for a state; the test's time-out is the end of the patience. */
async function until(isSo) {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test("shaddock: cut again and again, nothing is lost, twice or out of order", shaddock(300_000), async () => {
  const demo = await startDemo();
  let seed = 7;
  const chance = (limit) => (seed = (seed * 48_271) % 0x7fff_ffff) % limit;
  try {
    for (const scheme of ["ws", "tcp"]) {
      const proxy = await cuttingProxy(demo.connector, 60, () => 1 + chance(4000));
      const url = `${scheme}://127.0.0.1:${proxy.port}`;
      const seen = { resumed: 0, missed: 0, restarted: 0 };
      // What is cut before there is a session is the caller's.
      let client;
      let room;
      for (let tries = 0; !room; tries++) {
        client = new Client(url, options(scheme, quick));
        client.on("resumed", ({ missed }) => (seen.resumed++, (seen.missed += missed)));
        client.on("restarted", () => seen.restarted++);
        room = await inRoom(client, `cut-${scheme}`, `ann-${tries}`).catch(() => client.close());
      }
      const answers = [];
      let last = 0;
      for (let after = 50; after > 0; ) {
        if (proxy.left <= 0) after--;
        answers.push(room.say(++last));
        if (last % 20 === 0) await answers.at(-10);
      }
      for (const answer of await Promise.all(answers)) assert.notEqual(answer.code, 500);
      await until(() => room.heard.length >= last);
      assert.deepEqual(room.heard, numbers(last));
      assert.deepEqual([seen.missed, seen.restarted], [0, 0]);
      assert.ok(seen.resumed > 10, `${seen.resumed} times back`);
      client.close();
      proxy.stop();
    }
  } finally {
    await demo.server.stop();
  }
});

test("shaddock: a server that stands still for a while loses nothing", shaddock(240_000), async () => {
  const demo = await startDemo();
  try {
    const client = new Client(`ws://127.0.0.1:${demo.connector}`, options("ws", quick));
    const { heard, say } = await inRoom(client, "still");
    const answers = [say(1), say(2)];
    demo.server.signal("SIGSTOP");
    answers.push(say(3));
    const [suspended, resumed] = [event(client, "suspended"), event(client, "resumed")];
    client.interrupt();
    assert.equal((await suspended).resumable, true);
    answers.push(say(4));
    demo.server.signal("SIGCONT");
    assert.deepEqual(await resumed, { missed: 0 });
    answers.push(say(5));
    await Promise.all(answers);
    await until(() => heard.length >= 5);
    assert.deepEqual(heard, numbers(5));
    client.close();
  } finally {
    await demo.server.stop();
  }
});

test("shaddock: after a restart of the server it is a new session, and says so", shaddock(240_000), async () => {
  const demo = await startDemo();
  let { server } = demo;
  try {
    const client = new Client(`ws://127.0.0.1:${demo.connector}`, options("ws", quick));
    const { heard, enter, say } = await inRoom(client, "again");
    await say(1);
    const [suspended, restarted] = [event(client, "suspended"), event(client, "restarted")];
    server.signal("SIGKILL");
    await suspended;
    const lost = assert.rejects(say(2), { code: "lost" });
    await server.stop();
    server = await demo.again();
    assert.equal((await restarted).why, "unknown");
    await lost;
    await enter();
    await say(2);
    await until(() => heard.length >= 2);
    assert.deepEqual(heard, numbers(2));
    client.close();
  } finally {
    await server.stop();
  }
});
