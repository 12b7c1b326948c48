// The cases. Each is a function of `{ client, accept, golden }`: `client.do(..)` tells the client what to do, `client.see(..)` waits for an event of it,
// `accept()` gives the next connection. What does not hold throws.

import assert from "node:assert/strict";
import { deflateSync, gzipSync } from "node:zlib";
import { KIND, listen, push, readVarint, response } from "./wire.mjs";

const same = assert.deepEqual;
const token = (n) => `token-${n}`;
const grant = (n, more = {}) => ({ v: 1, token: token(n), window: 60, ack: 32, ...more });

/** Reads the handshake of a new connection and answers it, up to the ACK. */
export async function greet(accept, sys = {}, { check = () => {} } = {}) {
  const connection = await accept();
  const asked = JSON.parse((await connection.expect(KIND.handshake)).toString());
  check(asked.sys, asked);
  connection.send(KIND.handshake, Buffer.from(JSON.stringify({ code: 200, sys })));
  await connection.expect(KIND.ack);
  return connection;
}

const resumed = (n, more) => ({ resume: grant(n, { resumed: true, missed: 0, ...more }) });
// `early` is the client's choice.
const asks = (n, received, sent) => ({ check: ({ resume: { early, ...rest } }) => same(rest, { v: 1, token: token(n), received, sent }) });
const begin = async ({ client, accept }, sys = { resume: grant(1) }, options = {}) => {
  await client.do("connect", options);
  const connection = await greet(accept, sys);
  await client.see("open");
  return connection;
};
const numbers = async (connection, count) => {
  const found = [];
  while (found.length < count) found.push((await connection.message("notify", "a.b.say")).json().n);
  return found;
};
const say = (client, ...list) => Promise.all(list.map((n) => client.do("notify", { route: "a.b.say", body: { n } })));
const pushes = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => push("onN", { n: from + i }));
const seeNumbers = async (client, from, to) => {
  for (let n = from; n <= to; n++) same(await client.see("push"), { event: "push", route: "onN", body: { n } });
};
/** Cuts, and waits until the client has noticed. */
const cut = async (connection, client) => {
  connection.cut();
  await client.see("suspended", { resumable: true });
};
const acknowledgement = async (connection) => {
  const body = await connection.expect(KIND.heartbeat);
  return body.length ? readVarint(body).value : null;
};

export const cases = {
  // ---- without resume
  "handshake: sys is there, the ACK follows the answer": async (t) => {
    await t.client.do("connect");
    await greet(t.accept, {}, { check: (sys) => assert.ok(sys && typeof sys === "object") });
    await t.client.see("open");
  },
  "handshake: resume is asked for with version 1, and without a token": async (t) => {
    await t.client.do("connect");
    await greet(t.accept, {}, { check: (sys) => same(sys.resume, { v: 1 }) });
  },
  "handshake: code 500 is a refusal": async (t) => {
    await t.client.do("connect");
    const connection = await t.accept();
    await connection.expect(KIND.handshake);
    connection.send(KIND.handshake, Buffer.from('{"code":500}'));
    await t.client.see("closed", { reason: "refused" });
  },
  "request and answer": async (t) => {
    const connection = await begin(t, {});
    await t.client.do("request", { id: "x", route: "a.b.echo", body: { m: "hi" } });
    const found = await connection.message("request", "a.b.echo");
    same(found.json(), { m: "hi" });
    assert.ok(found.id >= 1);
    connection.data(response(found.id, { m: "hello" }));
    await t.client.see("answer", { id: "x", body: { m: "hello" } });
  },
  "answers may overtake each other, and ids above 127 take two bytes": async (t) => {
    const connection = await begin(t, {});
    const ids = [];
    for (let n = 0; n < 140; n++) {
      await t.client.do("request", { id: n, route: "a.b.echo", body: { n } });
      ids.push((await connection.message("request", "a.b.echo")).id);
    }
    same(new Set(ids).size, 140);
    connection.data(...ids.map((id, n) => response(id, { n })).reverse());
    for (let n = 139; n >= 0; n--) await t.client.see("answer", { id: n, body: { n } });
  },
  "an answer nobody waits for is ignored": async (t) => {
    const connection = await begin(t, {});
    connection.data(response(77, { n: 0 }), ...pushes(1, 1));
    await seeNumbers(t.client, 1, 1);
  },
  "a request that is not answered fails by itself": async (t) => {
    const connection = await begin(t, {}, { requestTimeout: 200 });
    await t.client.do("request", { id: 1, route: "a.b.c", body: {} });
    const { id } = await connection.message("request", "a.b.c");
    await t.client.see("failed", { id: 1, code: "timeout" });
    connection.data(response(id, {}), ...pushes(1, 1));
    await seeNumbers(t.client, 1, 1);
  },
  "a request on a closed client fails at once": async (t) => {
    await begin(t, {});
    await t.client.do("close");
    await t.client.see("closed", { reason: "closed" });
    await t.client.do("request", { id: 1, route: "a.b.c", body: {} });
    await t.client.see("failed", { id: 1, code: "closed" });
  },
  "several packages in one write, and one package in many": async (t) => {
    const connection = await begin(t, {});
    const bytes = Buffer.concat(pushes(1, 3).map((body) => Buffer.concat([Buffer.from([4, 0, 0, body.length]), body])));
    connection.write(bytes);
    await seeNumbers(t.client, 1, 3);
    if (connection.kind !== "tcp") return;
    for (const byte of bytes) {
      connection.write(Buffer.from([byte]));
      await new Promise(setImmediate);
    }
    await seeNumbers(t.client, 1, 3);
  },
  "large bodies, both ways": async (t) => {
    const connection = await begin(t, {});
    const m = "y".repeat(70_000);
    await t.client.do("request", { id: 1, route: "a.b.echo", body: { m } });
    const found = await connection.message("request", "a.b.echo");
    same(found.json(), { m });
    connection.data(response(found.id, { m }));
    await t.client.see("answer", { id: 1, body: { m } });
  },
  "text outside the BMP: escaped and as UTF-8": async (t) => {
    const connection = await begin(t, {});
    connection.data(push("onT", Buffer.from('{"m":"\\ud83d\\ude00b"}')), push("onT", Buffer.from('{"m":"\u{1f600}b \u4f60"}')));
    same((await t.client.see("push")).body, { m: "\u{1f600}b" });
    same((await t.client.see("push")).body, { m: "\u{1f600}b \u4f60" });
  },
  "dictionary: codes both ways, an unknown code harms nothing": async (t) => {
    const dict = { "a.b.echo": 1, onN: 300 };
    const connection = await begin(t, { useDict: true, dict, routeToCode: dict, codeToRoute: { 1: "a.b.echo", 300: "onN" }, dictVersion: "x" });
    await t.client.do("request", { id: 1, route: "a.b.echo", body: {} });
    const found = await connection.message("request", 1);
    connection.data(push(999, {}), push(300, { n: 1 }), response(found.id, {}));
    await seeNumbers(t.client, 1, 1);
    await t.client.see("answer", { id: 1 });
  },
  "golden: protobuf bodies, encoded by the client": async (t) => {
    const { schemas, list } = t.golden.protobuf();
    const connection = await begin(t, { useProto: true, protos: { client: schemas, server: schemas, version: "x" } });
    for (const one of list.filter((one) => one.op === "both" && one.plain)) {
      await t.client.do("notify", { route: one.route, body: one.input });
      same((await connection.message("notify", one.route)).body.toString("hex"), one.hex, `${one.name}`);
    }
  },
  "golden: protobuf bodies, decoded by the client": async (t) => {
    const { schemas, list } = t.golden.protobuf();
    const connection = await begin(t, { useProto: true, protos: { client: schemas, server: schemas, version: "x" } });
    for (const one of list.filter((one) => one.plain)) {
      connection.data(push(one.route, Buffer.from(one.hex, "hex")));
      same((await t.client.see("push")).body, one.decoded ?? one.input, one.name);
    }
  },
  "kick: the reason is told, and the client stays away": async (t) => {
    const connection = await begin(t, {});
    connection.send(KIND.kick, Buffer.from('{"reason":"bye"}'));
    await t.client.see("kicked", { reason: "bye" });
    await t.client.see("closed", { reason: "kicked" });
    await t.nobodyComes(300);
  },
  "kick without a body": async (t) => {
    const connection = await begin(t, {});
    connection.send(KIND.kick);
    await t.client.see("kicked", { reason: "" });
  },
  "heartbeat: answered after the interval, once, however many came": async (t) => {
    const connection = await begin(t, { heartbeat: 1 });
    const start = Date.now();
    for (let n = 0; n < 4; n++) connection.send(KIND.heartbeat);
    same((await connection.expect(KIND.heartbeat)).length, 0);
    assert.ok(Date.now() - start > 800, "it came too early");
    await t.quiet(connection, 500);
  },
  "heartbeat: a silent server is given up": async (t) => {
    const connection = await begin(t, { heartbeat: 1 });
    connection.send(KIND.heartbeat);
    await t.client.see("suspended");
  },
  "lost without resume: requests fail, a new session follows": async (t) => {
    const connection = await begin(t, {});
    await t.client.do("request", { id: 1, route: "a.b.c", body: {} });
    await connection.message("request", "a.b.c");
    connection.cut();
    await t.client.see("failed", { id: 1, code: "lost" });
    await t.client.see("suspended", { resumable: false });
    await greet(t.accept, {}, { check: (sys) => same(sys.resume, { v: 1 }) });
    await t.client.see("restarted");
  },
  "Pitaya: handshake keys, a compressed answer, compression, the error bit": async (t) => {
    await t.client.do("connect", { dialect: "pitaya" });
    const connection = await t.accept();
    const { sys } = JSON.parse((await connection.expect(KIND.handshake)).toString());
    assert.ok(sys.platform && sys.libVersion && sys.clientVersion && sys.clientBuildNumber && !("type" in sys));
    connection.send(KIND.handshake, deflateSync('{"code":200,"sys":{"dict":{},"heartbeat":30,"serializer":"json"}}'));
    await connection.expect(KIND.ack);
    await t.client.see("open");
    const text = JSON.stringify({ n: 1, m: "z".repeat(5000) });
    for (const zip of [deflateSync, gzipSync, (text) => deflateSync(text, { level: 0 }), (text) => deflateSync(text, { strategy: 4 })]) {
      connection.data(push("onZ", zip(text), { flag: 16 }));
      same((await t.client.see("push")).body, JSON.parse(text));
    }
    await t.client.do("request", { id: 1, route: "room.fail", body: {} });
    const { id } = await connection.message("request", "room.fail");
    connection.data(response(id, { code: "PIT-404", msg: "no" }, { flag: 32 }));
    await t.client.see("failed", { id: 1, code: "answer", body: { code: "PIT-404", msg: "no" } });
  },

  // ---- resume
  "resume: a grant that makes no sense is none": async (t) => {
    const connection = await begin(t, { resume: { v: 2, token: 7 } });
    connection.cut();
    await t.client.see("suspended", { resumable: false });
    await greet(t.accept, {}, { check: (sys) => same(sys.resume, { v: 1 }) });
  },
  "resume: an acknowledgement after `ack` messages, without heartbeats": async (t) => {
    const connection = await begin(t, { resume: grant(1, { ack: 5 }) });
    connection.data(...pushes(1, 4));
    await seeNumbers(t.client, 1, 4);
    await t.quiet(connection, 150);
    connection.data(...pushes(5, 5));
    same(await acknowledgement(connection), 5);
    connection.data(...pushes(6, 10));
    same(await acknowledgement(connection), 10);
  },
  "resume: heartbeats acknowledge what is new": async (t) => {
    // Three seconds, so that a pause of a busy machine is not taken for a silent server.
    const connection = await begin(t, { heartbeat: 3, resume: grant(1) });
    connection.data(...pushes(1, 3));
    connection.send(KIND.heartbeat);
    same(await acknowledgement(connection), 3);
    connection.send(KIND.heartbeat);
    assert.ok([null, 3].includes(await acknowledgement(connection)));
  },
  "resume: the same session comes back, both ends go on where they were": async (t) => {
    const first = await begin(t);
    await say(t.client, 1, 2, 3);
    same(await numbers(first, 3), [1, 2, 3]);
    first.data(...pushes(1, 2));
    await seeNumbers(t.client, 1, 2);
    await cut(first, t.client);
    const second = await greet(t.accept, resumed(2, { received: 2, position: 2 }), asks(1, 2, 3));
    await t.client.see("resumed", { missed: 0 });
    same(await numbers(second, 1), [3]);
    await say(t.client, 4);
    same(await numbers(second, 1), [4]);
    second.data(...pushes(3, 4));
    await seeNumbers(t.client, 3, 4);
    await cut(second, t.client);
    await greet(t.accept, resumed(3, { received: 4, position: 4 }), asks(2, 4, 4));
    await t.client.see("resumed", { missed: 0 });
  },
  "resume: what the server acknowledged is not sent again": async (t) => {
    const first = await begin(t);
    await say(t.client, 1, 2, 3, 4);
    same(await numbers(first, 4), [1, 2, 3, 4]);
    first.send(KIND.heartbeat, Buffer.from([3]));
    first.data(...pushes(1, 1));
    await seeNumbers(t.client, 1, 1);
    await cut(first, t.client);
    const second = await greet(t.accept, resumed(2, { received: 3, position: 1 }), asks(1, 1, 4));
    same(await numbers(second, 1), [4]);
    await t.quiet(second, 150);
  },
  "resume: a request in flight is answered after the cut": async (t) => {
    const first = await begin(t);
    await t.client.do("request", { id: 1, route: "a.b.c", body: {} });
    const { id } = await first.message("request", "a.b.c");
    await cut(first, t.client);
    const second = await greet(t.accept, resumed(2, { received: 1, position: 0 }), asks(1, 0, 1));
    await t.client.see("resumed");
    await t.quiet(second, 150);
    second.data(response(id, { ok: true }));
    await t.client.see("answer", { id: 1, body: { ok: true } });
  },
  "resume: what is sent again comes behind the answer, if the client takes it early": async (t) => {
    const first = await begin(t);
    first.data(...pushes(1, 2));
    await seeNumbers(t.client, 1, 2);
    await cut(first, t.client);
    const second = await t.accept();
    const { sys } = JSON.parse((await second.expect(KIND.handshake)).toString());
    second.send(KIND.handshake, Buffer.from(JSON.stringify({ code: 200, sys: resumed(2, { received: 0, position: 2 }) })));
    if (sys.resume.early === true) second.data(...pushes(3, 4));
    await second.expect(KIND.ack);
    if (sys.resume.early !== true) second.data(...pushes(3, 4));
    await seeNumbers(t.client, 3, 4);
    await cut(second, t.client);
    await greet(t.accept, resumed(3, { received: 0, position: 4 }), asks(2, 4, 0));
  },
  "resume: what is said while suspended follows what is re-sent": async (t) => {
    const first = await begin(t);
    await say(t.client, 1);
    same(await numbers(first, 1), [1]);
    await cut(first, t.client);
    const second = await t.accept();
    const { sys } = JSON.parse((await second.expect(KIND.handshake)).toString());
    await say(t.client, 2, 3);
    second.send(KIND.handshake, Buffer.from(JSON.stringify({ code: 200, sys: resumed(2, { received: 0, position: 0 }) })));
    await second.expect(KIND.ack);
    assert.ok(sys.resume.sent >= 1);
    same(await numbers(second, 3), [1, 2, 3]);
  },
  "resume: a gap is told, and counting goes on from the server's position": async (t) => {
    const first = await begin(t);
    first.data(...pushes(1, 2));
    await seeNumbers(t.client, 1, 2);
    await cut(first, t.client);
    const second = await greet(t.accept, { resume: grant(2, { ack: 2, resumed: true, received: 0, position: 7, missed: 5 }) }, asks(1, 2, 0));
    await t.client.see("resumed", { missed: 5 });
    second.data(...pushes(8, 9));
    await seeNumbers(t.client, 8, 9);
    same(await acknowledgement(second), 9);
    await cut(second, t.client);
    await greet(t.accept, resumed(3, { received: 0, position: 9 }), asks(2, 9, 0));
  },
  "resume: the dictionary and the schemas stay": async (t) => {
    const dict = { onN: 5 };
    const first = await begin(t, { useDict: true, dict, routeToCode: dict, codeToRoute: { 5: "onN" }, dictVersion: "x", resume: grant(1) });
    await cut(first, t.client);
    const second = await greet(t.accept, resumed(2, { received: 0, position: 0 }));
    second.data(push(5, { n: 1 }));
    await seeNumbers(t.client, 1, 1);
  },
  "resume: a token that is refused gives a new session": async (t) => {
    const first = await begin(t);
    await say(t.client, 1, 2);
    same(await numbers(first, 2), [1, 2]);
    await t.client.do("request", { id: 1, route: "a.b.c", body: {} });
    await first.message("request", "a.b.c");
    first.data(...pushes(1, 2));
    await seeNumbers(t.client, 1, 2);
    await cut(first, t.client);
    const second = await greet(t.accept, { resume: grant(2, { resumed: false, why: "unknown" }) }, asks(1, 2, 3));
    await t.client.see("failed", { id: 1, code: "lost" });
    await t.client.see("restarted", { lost: 3 });
    await t.quiet(second, 150);
    // The new session counts from nothing.
    await say(t.client, 9);
    same(await numbers(second, 1), [9]);
    await cut(second, t.client);
    await greet(t.accept, resumed(3, { received: 1, position: 0 }), asks(2, 0, 1));
    await t.client.see("resumed");
  },
  "resume: a server that no longer offers it gives a new session": async (t) => {
    await cut(await begin(t), t.client);
    await greet(t.accept, {});
    await t.client.see("restarted");
  },
  "resume: an answer that is lost locks nobody out": async (t) => {
    await cut(await begin(t), t.client);
    const lost = await t.accept();
    await lost.expect(KIND.handshake);
    lost.cut();
    await greet(t.accept, resumed(2, { received: 0, position: 0 }), asks(1, 0, 0));
    await t.client.see("resumed");
  },
  "resume: an ACK that is lost locks nobody out": async (t) => {
    await cut(await begin(t), t.client);
    const lost = await t.accept();
    await lost.expect(KIND.handshake);
    lost.send(KIND.handshake, Buffer.from(JSON.stringify({ code: 200, sys: resumed(2, { received: 0, position: 0 }) })));
    lost.cut();
    let shown;
    await greet(t.accept, resumed(3, { received: 0, position: 0 }), { check: (sys) => (shown = sys.resume.token) });
    assert.ok([token(1), token(2)].includes(shown), `the client showed ${shown}`);
    await t.client.see("resumed");
  },
  "resume: a cut while messages are re-sent": async (t) => {
    const first = await begin(t);
    await say(t.client, 1, 2, 3, 4);
    same(await numbers(first, 4), [1, 2, 3, 4]);
    await cut(first, t.client);
    const second = await greet(t.accept, resumed(2, { received: 1, position: 0 }), asks(1, 0, 4));
    same(await numbers(second, 1), [2]);
    await t.client.see("resumed");
    await cut(second, t.client);
    const third = await greet(t.accept, resumed(3, { received: 2, position: 0 }), asks(2, 0, 4));
    same(await numbers(third, 2), [3, 4]);
  },
  "resume: bytes of an old connection that come late are dropped": async (t) => {
    const first = await begin(t);
    await t.client.do("cut");
    await t.client.see("suspended");
    first.data(...pushes(1, 1));
    const second = await greet(t.accept, resumed(2, { received: 0, position: 0 }), asks(1, 0, 0));
    first.data(...pushes(1, 1));
    second.data(...pushes(1, 2));
    await t.client.see("resumed");
    await seeNumbers(t.client, 1, 2);
    await t.client.sees(0, 150);
  },
  "resume: a take-over cuts the first socket off": async (t) => {
    const first = await begin(t);
    first.data(...pushes(1, 1));
    await seeNumbers(t.client, 1, 1);
    // The server has lost the connection; half a package is on the way.
    first.write(first.kind === "tcp" ? Buffer.from([4, 0, 0, 9, 6]) : Buffer.alloc(0));
    await cut(first, t.client);
    const second = await greet(t.accept, resumed(2, { received: 0, position: 1 }), asks(1, 1, 0));
    second.data(...pushes(2, 2));
    await t.client.see("resumed");
    await seeNumbers(t.client, 2, 2);
  },
  "resume: answers nobody waits for are counted": async (t) => {
    const first = await begin(t);
    first.data(response(99, {}), ...pushes(1, 1));
    await seeNumbers(t.client, 1, 1);
    await cut(first, t.client);
    await greet(t.accept, resumed(2, { received: 0, position: 2 }), asks(1, 2, 0));
  },
  "resume: the configured address is asked first, then the one everybody uses": async (t) => {
    const home = await listen();
    try {
      const first = await begin(t, { resume: grant(1, { address: t.urlOf(home.port) }) });
      await cut(first, t.client);
      const there = await home.accept();
      const { sys } = JSON.parse((await there.expect(KIND.handshake)).toString());
      same(sys.resume.token, token(1));
      there.cut();
      await greet(t.accept, resumed(2, { received: 0, position: 0 }), asks(1, 0, 0));
      await t.client.see("resumed");
    } finally {
      home.close();
    }
  },
  "resume: the client's goodbye": async (t) => {
    const connection = await begin(t);
    await t.client.do("close");
    same(await connection.end(), "goodbye");
    await t.nobodyComes(200);
  },
  "resume: a kick ends the session": async (t) => {
    const connection = await begin(t);
    connection.send(KIND.kick, Buffer.from('{"reason":"bye"}'));
    await t.client.see("closed", { reason: "kicked" });
    await t.nobodyComes(300);
  },
  "resume: a client keeps 256 messages at most": async (t) => {
    const connection = await begin(t);
    await say(t.client, ...Array.from({ length: 300 }, (_, n) => n));
    same((await numbers(connection, 256)).length, 256);
    await t.quiet(connection, 200);
  },
  "bad: an acknowledgement of more than was sent": async (t) => {
    const connection = await begin(t);
    connection.send(KIND.heartbeat, Buffer.from([9]));
    await t.client.see("closed", { reason: "protocol" });
  },
  "bad: an acknowledgement that goes back": async (t) => {
    const connection = await begin(t);
    await say(t.client, 1, 2);
    same(await numbers(connection, 2), [1, 2]);
    connection.send(KIND.heartbeat, Buffer.from([2]));
    connection.send(KIND.heartbeat, Buffer.from([1]));
    await t.client.see("closed", { reason: "protocol" });
  },
  "bad: a resumption that claims more than was sent": async (t) => {
    await cut(await begin(t), t.client);
    const second = await t.accept();
    await second.expect(KIND.handshake);
    second.send(KIND.handshake, Buffer.from(JSON.stringify({ code: 200, sys: resumed(2, { received: 5, position: 0 }) })));
    await t.client.see("closed", { reason: "protocol" });
  },
  "bad: a resumption whose position is behind what came": async (t) => {
    const first = await begin(t);
    first.data(...pushes(1, 2));
    await seeNumbers(t.client, 1, 2);
    await cut(first, t.client);
    const second = await t.accept();
    await second.expect(KIND.handshake);
    second.send(KIND.handshake, Buffer.from(JSON.stringify({ code: 200, sys: resumed(2, { received: 0, position: 1 }) })));
    await t.client.see("closed", { reason: "protocol" });
  },
  "bad: a package of an unknown type": async (t) => {
    const connection = await begin(t, {});
    connection.send(9);
    await t.client.see("closed", { reason: "protocol" });
  },
};
