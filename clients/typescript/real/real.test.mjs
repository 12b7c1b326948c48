// Our client against servers of others, unmodified, and against shaddock's demo. None of the first offers resume.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { Client, ClientError, connect, webSocket } from "../dist/index.js";
import { nodeTcp } from "../dist/node-tcp.js";
import { WebSocket } from "../node_modules/ws/wrapper.mjs";
import { freePorts, listening, run, startPitaya, startPomelo } from "./servers.mjs";

const options = (url, more) => ({ transport: url.startsWith("tcp") ? nodeTcp() : webSocket(WebSocket), reconnect: { min: 20, max: 200 }, ...more });
const event = (client, name) => new Promise((resolve) => client.on(name, resolve));
const push = (client, route) => new Promise((resolve) => client.onPush(route, resolve));

for (const kind of ["pomelo", "pinus"]) {
  test(`${kind}: dictionary, protobuf, heartbeats, a cut, a kick`, { timeout: 120_000 }, async () => {
    const server = await startPomelo(kind);
    try {
      for (const url of [`ws://127.0.0.1:${server.port}`, `tcp://127.0.0.1:${server.port}`]) {
        const client = await connect(url, options(url));
        assert.equal(client.resumable, false);
        let suspended = 0;
        client.on("suspended", () => suspended++);
        const enter = () => client.request("connector.entryHandler.enter", { uid: "u1" });
        assert.deepEqual(await enter(), { ok: true });
        const pushed = push(client, "onX");
        const body = { n: -5, s: "hi \u4f60\u597d" };
        const { n, s } = await client.request("connector.entryHandler.echo", body);
        assert.deepEqual({ n, s }, body);
        assert.deepEqual(await pushed, { n: 7 });
        assert.deepEqual(await client.request("connector.entryHandler.nothing"), { code: 500 });
        // The server's interval is a second: after three, both ends have lived on each other's heartbeats.
        await new Promise((resolve) => setTimeout(resolve, 3500));
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
test("shaddock: gate, connector, room", { timeout: 60_000, skip: !existsSync(binary) && "it is not built" }, async () => {
  const [gate, first, second, page, admin] = await freePorts(5);
  const ports = ["--gate-port", gate, "--connector-ports", `${first},${second}`, "--page-port", page];
  const server = run(binary, ["demo", ...ports, "--set", `admin.address=127.0.0.1:${admin}`, "--set", "drain.spread=200ms"]);
  try {
    for (const port of [gate, first, second]) await listening(port, server);
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
