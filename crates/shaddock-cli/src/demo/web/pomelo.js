// A small client of Pomelo's protocol over WebSocket: handshake, heartbeats, route dictionary, dynamic protobuf, kick.
// One object is one connection. No dependencies.

const PACKAGE = { handshake: 1, ack: 2, heartbeat: 3, data: 4, kick: 5 };
const MESSAGE = { request: 0, notify: 1, response: 2, push: 3 };
const utf8 = { encode: new TextEncoder(), decode: new TextDecoder() };

export class Pomelo extends EventTarget {
  #socket;
  #nextId = 1;
  #waiting = new Map();
  #dict = {};
  #routes = {};
  #protos = { client: {}, server: {} };
  #heartbeat = 0;
  #timers = { beat: 0, dead: 0 };
  #kicked = null;

  /** Connects and completes the handshake. Rejects if the server cannot be reached or refuses. */
  static connect(url, user) {
    const client = new Pomelo();
    return client.#open(url, user).then(() => client);
  }

  #open(url, user) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(url);
      socket.binaryType = "arraybuffer";
      this.#socket = socket;
      const timeout = setTimeout(() => {
        reject(new Error("The server did not answer in time."));
        socket.close();
      }, 8000);
      socket.onopen = () => {
        const sys = { type: "shaddock-demo", version: "1", rsa: {} };
        this.#send(PACKAGE.handshake, utf8.encode.encode(JSON.stringify({ sys, user })));
      };
      socket.onmessage = (event) => {
        this.#alive();
        for (const { kind, body } of packages(new Uint8Array(event.data))) {
          if (kind === PACKAGE.handshake) {
            clearTimeout(timeout);
            this.#shakeHands(JSON.parse(utf8.decode.decode(body)), resolve, reject);
          } else {
            this.#receive(kind, body);
          }
        }
      };
      socket.onclose = () => {
        clearTimeout(timeout);
        reject(new Error("The server cannot be reached."));
        this.#closed();
      };
    });
  }

  #shakeHands(answer, resolve, reject) {
    if (answer.code !== 200) {
      reject(new Error(answer.code === 501 ? "This client is too old." : "The server refused the handshake."));
      return this.#socket.close();
    }
    const { heartbeat, dict, protos } = answer.sys ?? {};
    this.#heartbeat = (heartbeat ?? 0) * 1000;
    this.#dict = dict ?? {};
    this.#routes = Object.fromEntries(Object.entries(this.#dict).map(([route, code]) => [code, route]));
    if (protos) this.#protos = protos;
    this.#send(PACKAGE.ack);
    resolve();
  }

  #receive(kind, body) {
    if (kind === PACKAGE.heartbeat) this.#beat();
    else if (kind === PACKAGE.data) this.#message(decodeMessage(body));
    else if (kind === PACKAGE.kick) this.#kicked = JSON.parse(utf8.decode.decode(body) || "{}").reason ?? "";
  }

  #message(message) {
    if (message.type === MESSAGE.response) {
      const call = this.#waiting.get(message.id);
      if (!call) return;
      this.#waiting.delete(message.id);
      call.resolve(this.#read(call.route, message.body));
    } else if (message.type === MESSAGE.push) {
      const route = typeof message.route === "number" ? this.#routes[message.route] : message.route;
      const detail = { route, body: this.#read(route, message.body) };
      this.dispatchEvent(new CustomEvent("push", { detail }));
    }
  }

  #read(route, bytes) {
    const schema = this.#protos.server?.[route];
    return schema ? decodeFields(schema, this.#protos.server, bytes) : JSON.parse(utf8.decode.decode(bytes));
  }

  /** Sends a request; the promise is rejected when the connection closes before the answer. */
  request(route, body = {}) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { route, resolve, reject });
      this.#write(MESSAGE.request, id, route, body);
    });
  }

  /** Sends a message that gets no answer. */
  notify(route, body = {}) {
    this.#write(MESSAGE.notify, 0, route, body);
  }

  #write(type, id, route, body) {
    const schema = this.#protos.client?.[route];
    const bytes = schema
      ? encodeFields(schema, this.#protos.client, body)
      : utf8.encode.encode(JSON.stringify(body));
    this.#send(PACKAGE.data, encodeMessage(type, id, this.#dict[route] ?? route, bytes));
  }

  #send(kind, body = new Uint8Array()) {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    const bytes = new Uint8Array(4 + body.length);
    bytes.set([kind, body.length >> 16, body.length >> 8, body.length]);
    bytes.set(body, 4);
    this.#socket.send(bytes);
  }

  // The server sends the first heartbeat and answers each of ours; we answer after one interval.
  #beat() {
    clearTimeout(this.#timers.beat);
    if (this.#heartbeat) this.#timers.beat = setTimeout(() => this.#send(PACKAGE.heartbeat), this.#heartbeat);
  }

  #alive() {
    clearTimeout(this.#timers.dead);
    if (this.#heartbeat) this.#timers.dead = setTimeout(() => this.close(), this.#heartbeat * 3);
  }

  #closed() {
    clearTimeout(this.#timers.beat);
    clearTimeout(this.#timers.dead);
    for (const { reject } of this.#waiting.values()) reject(new Error("The connection was closed."));
    this.#waiting.clear();
    this.dispatchEvent(new CustomEvent("close", { detail: { kicked: this.#kicked } }));
  }

  close() {
    this.#socket.close();
  }
}

function* packages(bytes) {
  for (let at = 0; at + 4 <= bytes.length; ) {
    const length = (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    yield { kind: bytes[at], body: bytes.subarray(at + 4, at + 4 + length) };
    at += 4 + length;
  }
}

function encodeMessage(type, id, route, body) {
  const out = [(type << 1) | (typeof route === "number" ? 1 : 0)];
  if (type === MESSAGE.request) putVarint(out, id);
  if (typeof route === "number") {
    out.push(route >> 8, route & 255);
  } else {
    const name = utf8.encode.encode(route);
    out.push(name.length, ...name);
  }
  const bytes = new Uint8Array(out.length + body.length);
  bytes.set(out);
  bytes.set(body, out.length);
  return bytes;
}

function decodeMessage(bytes) {
  const reader = new Reader(bytes);
  const flag = reader.byte();
  const message = { type: (flag >> 1) & 7, id: 0, route: null };
  if (message.type === MESSAGE.response) {
    message.id = reader.varint();
  } else if (flag & 1) {
    message.route = (reader.byte() << 8) | reader.byte();
  } else {
    message.route = utf8.decode.decode(reader.take(reader.byte()));
  }
  message.body = reader.rest();
  return message;
}

// Protobuf as Pomelo writes it. A schema is { field: { option, type, tag }, __tags: { tag: field }, __messages: { .. } }.

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }
  get done() {
    return this.at >= this.bytes.length;
  }
  byte() {
    if (this.done) throw new Error("A message ended too early.");
    return this.bytes[this.at++];
  }
  varint() {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = this.byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  }
  take(length) {
    if (this.at + length > this.bytes.length) throw new Error("A message ended too early.");
    return this.bytes.subarray(this.at, (this.at += length));
  }
  rest() {
    return this.take(this.bytes.length - this.at);
  }
}

function putVarint(out, value) {
  for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) + 128);
  out.push(value);
}

const isNumber = (type) => ["uInt32", "int32", "sInt32", "float", "double"].includes(type);
const wireType = (type) => ({ uInt32: 0, int32: 0, sInt32: 0, double: 1, float: 5 })[type] ?? 2;
const nested = (schema, root, type) => schema.__messages?.[type] ?? root[`message ${type}`];

function encodeFields(schema, root, value) {
  const out = [];
  for (const [name, content] of Object.entries(value)) {
    const field = schema[name];
    if (!field?.tag && field?.tag !== 0) continue;
    const key = () => putVarint(out, field.tag * 8 + wireType(field.type));
    if (field.option !== "repeated") {
      key();
      putValue(out, field.type, schema, root, content);
    } else if (isNumber(field.type)) {
      if (!content.length) continue;
      key();
      putVarint(out, content.length);
      for (const one of content) putValue(out, field.type, schema, root, one);
    } else {
      for (const one of content) {
        key();
        putValue(out, field.type, schema, root, one);
      }
    }
  }
  return new Uint8Array(out);
}

function putValue(out, type, schema, root, value) {
  if (type === "uInt32") putVarint(out, value);
  else if (type === "int32" || type === "sInt32") putVarint(out, value < 0 ? -value * 2 - 1 : value * 2);
  else if (type === "float") out.push(...new Uint8Array(new Float32Array([value]).buffer));
  else if (type === "double") out.push(...new Uint8Array(new Float64Array([value]).buffer));
  else {
    const bytes =
      type === "string" ? utf8.encode.encode(value) : encodeFields(nested(schema, root, type), root, value);
    putVarint(out, bytes.length);
    for (const byte of bytes) out.push(byte);
  }
}

function decodeFields(schema, root, bytes) {
  const reader = new Reader(bytes);
  const value = {};
  while (!reader.done) {
    const name = schema.__tags[Math.floor(reader.varint() / 8)];
    const field = schema[name];
    if (!field) throw new Error("A message has a field that is not in its schema.");
    if (field.option !== "repeated") {
      value[name] = takeValue(reader, field.type, schema, root);
    } else {
      const list = (value[name] ??= []);
      const count = isNumber(field.type) ? reader.varint() : 1;
      for (let i = 0; i < count; i++) list.push(takeValue(reader, field.type, schema, root));
    }
  }
  return value;
}

function takeValue(reader, type, schema, root) {
  if (type === "uInt32") return reader.varint();
  if (type === "int32" || type === "sInt32") {
    const zigzag = reader.varint();
    return zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2;
  }
  if (type === "float") return new DataView(reader.take(4).slice().buffer).getFloat32(0, true);
  if (type === "double") return new DataView(reader.take(8).slice().buffer).getFloat64(0, true);
  const bytes = reader.take(reader.varint());
  return type === "string" ? utf8.decode.decode(bytes) : decodeFields(nested(schema, root, type), root, bytes);
}
