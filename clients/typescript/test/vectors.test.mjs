// The golden bytes of Pomelo, Pinus and Pitaya.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateRawSync, deflateSync, gzipSync } from "node:zlib";
import { bytes, hex, parts, vectors } from "./parts.mjs";

const { Packages, encodePackage, encodeMessage, decodeMessage, encode, decode, inflate, text, utf8 } = parts;

test("packages: encoded, and decoded however they are cut", () => {
  for (const { name, input, hex: head, tail } of vectors("packages").cases) {
    const list = [input].flat();
    const all = tail ? Buffer.concat([bytes(head), Buffer.alloc(tail.count, tail.byte)]) : bytes(head);
    const bodyOf = (one) => (one.bodyHex !== undefined ? bytes(one.bodyHex) : all.subarray(4));
    const wanted = list.map((one) => ({ kind: one.type, body: hex(bodyOf(one)) }));
    if (all.length < 70_000) assert.equal(hex(Buffer.concat(list.map((one) => encodePackage(one.type, bodyOf(one))))), hex(all), name);
    const cuts = all.length < 300 ? Array.from(all, (_, at) => [at]) : [[3], [4], [5, all.length - 1]];
    const ways = all.length < 300 ? [...cuts, Array.from(all, (_, at) => at)] : cuts;
    for (const cut of ways) {
      const reader = new Packages();
      const found = [];
      let at = 0;
      for (const end of [...cut, all.length]) {
        reader.push(new Uint8Array(all.subarray(at, end)));
        at = end;
        for (let one; (one = reader.next()); ) found.push({ kind: one.kind, body: hex(one.body) });
      }
      assert.deepEqual(found, wanted, name);
    }
  }
});

test("messages", () => {
  let count = 0;
  for (const { name, input, hex: wanted } of vectors("messages").cases) {
    const routed = input.type !== 2;
    const encoded = encodeMessage(input.type, input.id, routed ? input.route : null, bytes(input.bodyHex));
    // The bit of compression is the only one that is never written by this client.
    if (!input.compressGzip && !(input.type === 2 && input.compressRoute)) assert.equal(hex(encoded), wanted, name);
    const found = decodeMessage(bytes(wanted));
    assert.deepEqual([found.type, found.route, found.zipped, hex(found.body)], [input.type, routed ? input.route : null, Boolean(input.compressGzip), input.bodyHex], name);
    if (input.type === 0 || input.type === 2) assert.equal(found.id, input.id, name);
    count++;
  }
  assert.ok(count > 400);
});

test("messages of Pitaya", () => {
  let compared = 0;
  for (const { name, op, input, hex: wanted } of vectors("pitaya-messages").cases) {
    if (!wanted || !input || input.dictionary === undefined) continue;
    const found = decodeMessage(bytes(wanted));
    assert.equal(found.type, input.type, name);
    assert.equal(found.error, Boolean(input.err), name);
    assert.equal(found.zipped, (bytes(wanted)[0] & 16) > 0);
    const code = input.dictionary?.[input.route];
    if (input.type !== 2) assert.equal(found.route, code ?? input.route, name);
    if (!op || op === "both" || op === "encode") {
      const body = found.zipped ? inflate(found.body, 1 << 20) : found.body;
      if (input.dataHex !== undefined) assert.equal(hex(body), input.dataHex, name);
      if (!found.zipped && !found.error) assert.equal(hex(encodeMessage(input.type, input.id, input.type === 2 ? null : (code ?? input.route), body)), wanted, name);
    }
    compared++;
  }
  assert.equal(compared, 11);
});

const real = (value) => {
  if (Array.isArray(value)) return value.map(real);
  if (value === null || typeof value !== "object") return value;
  if ("$number" in value) return value.$number === "-0" ? -0 : Number(value.$number);
  if ("$map" in value) return new Map(value.$map.map(([key, item]) => [key, real(item)]));
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, real(item)]));
};

for (const file of ["protobuf", "pinus-protobuf"]) {
  test(`bodies of ${file}`, () => {
    const { cases, parsed } = vectors(file);
    for (const one of cases) {
      const root = JSON.parse(parsed[one.schema]);
      const schema = root[one.route];
      if (one.op !== "decode") assert.equal(hex(encode(schema, root, real(one.input))), one.hex, one.name);
      assert.deepEqual(decode(schema, root, bytes(one.hex)), real("decoded" in one ? one.decoded : one.input), one.name);
    }
  });
}

test("broken protobuf bodies are errors, at every cut and at every changed byte", () => {
  const { cases, parsed } = vectors("protobuf");
  for (const one of cases.slice(0, 60)) {
    const root = JSON.parse(parsed[one.schema]);
    const whole = bytes(one.hex);
    for (let at = 0; at < whole.length; at++) {
      for (const broken of [whole.subarray(0, at), whole.map((byte, i) => (i === at ? byte ^ 0xff : byte))]) {
        try {
          decode(root[one.route], root, broken);
        } catch (error) {
          assert.match(error.message, /early|lacks|does not end|fewer|no message|nested/);
        }
      }
    }
  }
  const schema = { a: { option: "repeated", type: "uInt32", tag: 1 }, __tags: { 1: "a" } };
  assert.throws(() => decode(schema, {}, bytes("08ffffffff07")), /fewer/);
});

test("what cannot be encoded names the field", () => {
  const schema = {
    n: { option: "required", type: "uInt32", tag: 1 },
    s: { option: "optional", type: "string", tag: 2 },
    m: { option: "optional", type: "M", tag: 3 },
    __messages: { M: { x: { option: "required", type: "int32", tag: 1 } } },
  };
  for (const [body, message] of [
    [{}, /^n is required/],
    [{ n: -1 }, /^n must not be negative/],
    [{ n: null }, /^n must be a number/],
    [{ n: "x" }, /^n must be a number/],
    [{ n: 1, s: null }, /^s must be a text/],
    [{ n: 1, m: {} }, /^m\.x is required/],
    [{ n: 1, m: 5 }, /must be an object/],
    [null, /the body must be an object/],
  ]) assert.throws(() => encode(schema, {}, body), { message }, JSON.stringify(body));
});

test("text: as Node's encoder has it, and never an exception", () => {
  for (const { input } of vectors("browser-strings").cases) {
    const string = String.fromCharCode(...input.utf16);
    assert.equal(hex(utf8(string)), hex(new TextEncoder().encode(string)));
    assert.equal(text(utf8(string)), new TextDecoder().decode(new TextEncoder().encode(string)));
  }
  for (const broken of ["ff", "c0af", "e2", "eda0bd", "f0808080", "f5808080", "f09f98", "61c361"]) {
    assert.ok(text(bytes(broken)).includes("\ufffd"), broken);
  }
});

test("inflate: zlib and gzip of every level and strategy, cut and broken streams", () => {
  const samples = [Buffer.alloc(0), Buffer.from("a"), Buffer.from("abc".repeat(3000)), Buffer.from(Array.from({ length: 40_000 }, (_, i) => (i * i * 7919) >> 5)), Buffer.alloc(100_000, 7)];
  for (const sample of samples) {
    for (const level of [0, 1, 6, 9]) {
      for (const strategy of [0, 1, 2, 3, 4]) {
        for (const zip of [deflateSync, gzipSync]) assert.equal(hex(inflate(new Uint8Array(zip(sample, { level, strategy })), 1 << 20)), hex(sample), `${sample.length} ${level} ${strategy}`);
      }
    }
  }
  const zipped = new Uint8Array(deflateSync(samples[2]));
  assert.throws(() => inflate(zipped, 1000), /more than 1000/);
  for (let at = 0; at < zipped.length - 4; at++) assert.throws(() => inflate(zipped.subarray(0, at), 1 << 20));
  assert.throws(() => inflate(new Uint8Array(deflateRawSync("abc")), 100), /broken|early/);
  for (let at = 2; at < zipped.length; at++) {
    try {
      inflate(zipped.map((byte, i) => (i === at ? byte ^ 0x55 : byte)), 1 << 20);
    } catch (error) {
      assert.match(error.message, /broken|early|more than/);
    }
  }
});
