// The client's behaviour in time, on transports played by hand and a clock that the test moves.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { byHand } from "./fake.mjs";
import { hex, parts } from "./parts.mjs";

const { Client, ClientError } = parts;
const grant = { v: 1, token: "t1", window: 60, ack: 32 };
const turns = async () => {
  for (let n = 0; n < 6; n++) await null;
};
const code = (code) => (error) => error instanceof ClientError && error.code === code;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(Math, "random", () => 0);
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

async function opened(sys = {}, options = {}) {
  const hand = byHand();
  const client = new Client("ws://x", { transport: hand.transport, ...options });
  const events = [];
  for (const name of ["open", "suspended", "resumed", "restarted", "kicked", "closed", "error"]) client.on(name, (value) => events.push([name, value]));
  const connected = client.connect();
  hand.last().answer(sys);
  await connected;
  return { hand, client, events, names: () => events.map(([name]) => name) };
}

test("requests: time-out, its own and the default", async () => {
  const { client } = await opened();
  const slow = assert.rejects(client.request("a.b.c"), code("timeout"));
  const quick = assert.rejects(client.request("a.b.c", {}, { timeout: 50 }), code("timeout"));
  mock.timers.tick(50);
  await quick;
  mock.timers.tick(10_000);
  await slow;
});

test("requests: a signal, before and during", async () => {
  const { client, hand } = await opened();
  await assert.rejects(client.request("a.b.c", {}, { signal: AbortSignal.abort() }), code("aborted"));
  assert.equal(hand.last().packages().filter(({ kind }) => kind === 4).length, 0, "nothing was sent");
  const controller = new AbortController();
  const aborted = assert.rejects(client.request("a.b.c", {}, { signal: controller.signal }), code("aborted"));
  controller.abort();
  await aborted;
});

// Every state, and what request and notify do in it: nothing hangs.
for (const [name, prepare, request, notify] of [
  ["idle", () => ({ client: new Client("ws://x", { transport: byHand().transport }) }), "closed", "closed"],
  ["connecting", () => {
    const client = new Client("ws://x", { transport: byHand().transport });
    client.connect().catch(() => {});
    return { client };
  }, "offline", "offline"],
  ["suspended, not resumable", async () => {
    const found = await opened();
    found.hand.last().events.ended();
    return found;
  }, "offline", "offline"],
  ["suspended, resumable", async () => {
    const found = await opened({ resume: grant });
    found.hand.last().events.ended();
    return found;
  }, "timeout", null],
  ["closed", async () => {
    const found = await opened();
    found.client.close();
    return found;
  }, "closed", "closed"],
]) {
  test(`requests and notifies while ${name}`, async () => {
    const { client } = await prepare();
    const rejected = assert.rejects(client.request("a.b.c", {}), code(request));
    if (request === "timeout") mock.timers.tick(10_000);
    await rejected;
    if (notify) assert.throws(() => client.notify("a.b.c", {}), code(notify));
    else client.notify("a.b.c", {});
    client.close();
  });
}

test("requests: rejected when the session ends, by every way in which it can", async () => {
  for (const [end, wanted] of [
    [({ client }) => client.close(), "closed"],
    [({ hand }) => hand.last().data(5, parts.utf8('{"reason":"x"}')), "closed"],
    [({ hand }) => hand.last().events.ended(), "lost"],
    [({ hand }) => hand.last().events.data(Uint8Array.of(9, 0, 0, 0)), "closed"],
    [({ client }) => client.interrupt(), "lost"],
  ]) {
    const found = await opened();
    const rejected = assert.rejects(found.client.request("a.b.c"), code(wanted));
    end(found);
    await rejected;
  }
});

test("at most maxPending, then an error, and ready() tells when there is room", async () => {
  const { client, hand } = await opened({ resume: grant }, { maxPending: 2 });
  client.notify("a.b.c", {});
  client.notify("a.b.c", {});
  assert.throws(() => client.notify("a.b.c", {}), code("full"));
  await assert.rejects(client.request("a.b.c", {}), code("full"));
  let room = false;
  client.ready().then(() => (room = true));
  await turns();
  assert.equal(room, false);
  hand.last().data(3, [1]);
  await turns();
  assert.equal(room, true);
  client.notify("a.b.c", {});
  const waits = client.ready();
  client.close();
  await assert.rejects(waits, code("closed"));
});

test("reconnection: waits grow to the bound, then it is given up", async () => {
  const { client, hand, events } = await opened({}, { reconnect: { min: 100, max: 400, attempts: 4 } });
  hand.last().events.ended();
  assert.equal(client.state, "suspended");
  for (const wait of [100, 200, 400, 400]) {
    const before = hand.made.length;
    mock.timers.tick(wait - 1);
    assert.equal(hand.made.length, before, `${wait} ms`);
    mock.timers.tick(1);
    assert.equal(hand.made.length, before + 1, `${wait} ms`);
    hand.last().events.ended();
  }
  assert.equal(client.state, "closed");
  assert.deepEqual(events[events.length - 1], ["closed", "unreachable"]);
});

test("reconnection: jitter shortens a wait by up to a half", async () => {
  const { hand } = await opened({}, { reconnect: { min: 100 } });
  Math.random.mock.mockImplementation(() => 0.999);
  hand.last().events.ended();
  mock.timers.tick(51);
  assert.equal(hand.made.length, 2);
});

test("reconnection: a server that always closes at once is asked ever more rarely", async () => {
  const { hand } = await opened({}, { reconnect: { min: 100, max: 10_000 } });
  for (let n = 0; n < 40; n++) {
    hand.last().events.ended();
    mock.timers.tick(100);
    if (hand.last().closed === null && hand.last().events) hand.last().answer({});
  }
  assert.ok(hand.made.length < 12, `${hand.made.length} connections in 4 s`);
});

test("reconnection: retry() does not wait, and off is off", async () => {
  const { client, hand } = await opened();
  hand.last().events.ended();
  client.retry();
  assert.equal(hand.made.length, 2);
  const other = await opened({}, { reconnect: false });
  other.hand.last().events.ended();
  assert.deepEqual(other.events[1], ["closed", "lost"]);
});

test("a handshake that is not answered, or refused", async () => {
  for (const [play, wanted] of [
    [() => mock.timers.tick(8000), "unreachable"],
    [(one) => one.events.ended("no route"), "unreachable"],
    [(one) => one.answer({}, 501), "refused"],
    [(one) => one.answer({}, 500), "refused"],
    [(one) => (one.events.opened(), one.data(1, parts.utf8("no json"))), "protocol"],
  ]) {
    const hand = byHand();
    const client = new Client("ws://x", { transport: hand.transport });
    const rejected = assert.rejects(client.connect(), code(wanted));
    play(hand.last());
    await rejected;
    assert.equal(client.state, "closed");
  }
});

test("a refusal while coming back: 500 may pass, 501 does not", async () => {
  const { client, hand } = await opened();
  hand.last().events.ended();
  client.retry();
  hand.last().answer({}, 500);
  assert.equal(client.state, "suspended");
  client.retry();
  hand.last().answer({}, 501);
  assert.equal(client.state, "closed");
});

test("heartbeats: one pending at most, any package is a sign of life, silence of two intervals is not", async () => {
  const { client, hand } = await opened({ heartbeat: 10 });
  const one = hand.last();
  one.packages();
  one.data(3, []);
  one.data(3, []);
  mock.timers.tick(10_000);
  assert.deepEqual(one.packages().map(({ kind, body }) => [kind, body.length]), [[3, 0]]);
  for (let n = 0; n < 5; n++) {
    one.push("onX", {});
    mock.timers.tick(15_000);
  }
  assert.equal(client.state, "open");
  mock.timers.tick(5000);
  assert.equal(client.state, "suspended");
  assert.equal(one.closed, "cut");
});

test("heartbeats: Pitaya's client sends by itself", async () => {
  const { hand } = await opened({ heartbeat: 10 }, { dialect: "pitaya" });
  hand.last().packages();
  for (let n = 0; n < 3; n++) {
    mock.timers.tick(10_000);
    hand.last().data(3, []);
  }
  assert.equal(hand.last().packages().filter(({ kind }) => kind === 3).length, 3);
});

test("the events of a life", async () => {
  const { client, hand, events, names } = await opened({ resume: grant });
  assert.deepEqual(names(), ["open"]);
  hand.last().events.ended("gone");
  client.retry();
  hand.last().answer({ resume: { ...grant, token: "t2", resumed: true, received: 0, position: 0, missed: 0 } });
  hand.last().events.ended("gone");
  client.retry();
  hand.last().answer({ resume: { ...grant, token: "t3", resumed: false, why: "expired" } });
  hand.last().data(5, parts.utf8('{"reason":"bye"}'));
  assert.deepEqual(events.slice(1), [
    ["suspended", { why: "gone", resumable: true }],
    ["resumed", { missed: 0 }],
    ["suspended", { why: "gone", resumable: true }],
    ["restarted", { why: "expired", lost: 0 }],
    ["kicked", "bye"],
    ["closed", "kicked"],
  ]);
});

test("a kick that the application wants to survive", async () => {
  const { client, hand, names } = await opened({ resume: grant }, { reconnectAfterKick: (reason) => reason === "draining" });
  hand.last().data(5, parts.utf8('{"reason":"draining"}'));
  assert.equal(client.state, "suspended");
  client.retry();
  assert.ok(!/"token"/.test(Buffer.from(hand.last().url).toString()));
  hand.last().answer({ resume: grant });
  assert.deepEqual(names(), ["open", "suspended", "kicked", "restarted"]);
});

test("listeners: one that throws harms no other, and is told", async () => {
  const { client, hand, events } = await opened();
  const heard = [];
  const off = client.on("onX", () => {
    throw new Error("mine");
  });
  client.on("onX", (body) => heard.push(body));
  client.on("onX", async () => {
    throw new Error("later");
  });
  hand.last().push("onX", { n: 1 });
  off();
  hand.last().push("onX", { n: 2 });
  await turns();
  assert.deepEqual(heard, [{ n: 1 }, { n: 2 }]);
  assert.deepEqual(events.filter(([name]) => name === "error").map(([, error]) => error.message), ["mine", "later", "later"]);
});

test("listeners of errors that throw themselves are only logged", async () => {
  const { client, hand } = await opened();
  const logged = mock.method(console, "error", () => {});
  client.on("error", async () => {
    throw new Error("again");
  });
  client.on("onX", () => {
    throw new Error("mine");
  });
  hand.last().push("onX", {});
  await turns();
  assert.equal(logged.mock.callCount(), 1);
});

test("pushes never reach listeners of events", async () => {
  const { client, hand, names } = await opened();
  const heard = [];
  client.onPush("closed", (body) => heard.push(body));
  hand.last().push("closed", { n: 1 });
  assert.deepEqual(names(), ["open"]);
  assert.deepEqual(heard, [{ n: 1 }]);
});

test("for await: pushes in order, ends with the client, and a loop that falls behind is told", async () => {
  const { client, hand } = await opened();
  const loop = client[Symbol.asyncIterator]();
  hand.last().push("onX", { n: 1 });
  assert.deepEqual((await loop.next()).value, { route: "onX", body: { n: 1 } });
  const slow = client[Symbol.asyncIterator]();
  for (let n = 0; n < 1025; n++) hand.last().push("onX", { n });
  for (let n = 0; n < 1024; n++) assert.equal((await slow.next()).value.body.n, n);
  await assert.rejects(slow.next(), code("full"));
  await loop.return();
  const last = client[Symbol.asyncIterator]();
  client.close();
  assert.deepEqual(await last.next(), { value: undefined, done: true });
});

test("bodies of one's own form", async () => {
  const codec = { encode: (route, body) => (route === "a.b.c" ? Uint8Array.of(body.n) : null), decode: (route, bytes) => (route === "onX" ? bytes[0] : null) };
  const { client, hand } = await opened({}, { codec });
  hand.last().packages();
  client.notify("a.b.c", { n: 7 });
  client.notify("a.b.d", { n: 7 });
  assert.deepEqual(hand.last().packages().map(({ body }) => hex(body)), ["0205612e622e6307", "0205612e622e647b226e223a377d"]);
  const heard = [];
  client.on("onX", (body) => heard.push(body));
  hand.last().data(4, Uint8Array.of(6, 3, 111, 110, 88, 42));
  assert.deepEqual(heard, [42]);
});

test("a handshake as Cherry (Go) answers it", async () => {
  // Cherry's pomelo parser: dictionary and serializer, no dictVersion, whole-second heartbeats.
  const { client, hand } = await opened({ heartbeat: 60, dict: { "room.room.echo": 1 }, serializer: "json" });
  hand.last().packages();
  const answer = client.request("room.room.echo", { n: 1 });
  assert.deepEqual(hand.last().packages().map(({ body }) => hex(body)), ["0101" + "0001" + "7b226e223a317d"]);
  hand.last().response(1, { n: 1 });
  assert.deepEqual(await answer, { n: 1 });
});

test("after close() in a listener, and from an old connection, nothing is heard", async () => {
  const { client, hand } = await opened({ resume: grant });
  const heard = [];
  client.on("onX", ({ n }) => {
    heard.push(n);
    if (n === 2) client.close();
  });
  const old = hand.last();
  client.interrupt();
  old.push("onX", { n: 0 });
  client.retry();
  old.push("onX", { n: 0 });
  hand.last().answer({ resume: { ...grant, token: "t2", resumed: true, received: 0, position: 0, missed: 0 } });
  old.push("onX", { n: 0 });
  old.events.ended();
  assert.equal(client.state, "open");
  const push = (n) => parts.encodePackage(4, Uint8Array.from([6, 3, ...parts.utf8("onX"), ...parts.utf8(JSON.stringify({ n }))]));
  hand.last().events.data(parts.join(push(1), push(2), push(3)));
  assert.deepEqual(heard, [1, 2]);
});

test("to a Pomelo client the bit of compression means nothing", async () => {
  const { client, hand } = await opened();
  const heard = [];
  client.on("onX", (body) => heard.push(body));
  hand.last().data(4, Uint8Array.from([6 | 16, 3, ...parts.utf8('onX{"n":1}')]));
  assert.deepEqual(heard, [{ n: 1 }]);
});
