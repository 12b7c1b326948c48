// The server's end of a connection: TCP or WebSocket on one port, packages in and out. No dependencies.

import { createHash } from "node:crypto";
import { createServer } from "node:net";

export const KIND = { handshake: 1, ack: 2, heartbeat: 3, data: 4, kick: 5 };
const NAMES = [, "HANDSHAKE", "ACK", "HEARTBEAT", "DATA", "KICK"];
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

export function varint(value) {
  const out = [];
  for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) + 128);
  return Buffer.from([...out, value]);
}

export function readVarint(bytes, at = 0) {
  let value = 0;
  for (let factor = 1; ; factor *= 128) {
    if (at >= bytes.length) throw new Error("a number does not end");
    const byte = bytes[at++];
    value += (byte & 127) * factor;
    if (byte < 128) return { value, at };
  }
}

export function pack(kind, body = Buffer.alloc(0)) {
  const head = Buffer.from([kind, 0, 0, 0]);
  head.writeUIntBE(body.length, 1, 3);
  return Buffer.concat([head, body]);
}

const bodyBytes = (body) => (Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body)));

export const push = (route, body, { flag = 0 } = {}) => {
  const head = typeof route === "number" ? [7 | flag, route >> 8, route & 255] : [6 | flag, Buffer.byteLength(route), ...Buffer.from(route)];
  return Buffer.concat([Buffer.from(head), bodyBytes(body)]);
};

export const response = (id, body, { flag = 0 } = {}) => Buffer.concat([Buffer.from([4 | flag]), varint(id), bodyBytes(body)]);

/** What a client may send: a request or a notify. */
export function readMessage(bytes) {
  const flag = bytes[0];
  const type = ["request", "notify"][(flag >> 1) & 7];
  if (!type) throw new Error(`a client must not send flag ${flag}`);
  let at = 1;
  let id = 0;
  if (type === "request") ({ value: id, at } = readVarint(bytes, at));
  if (at + (flag & 1 ? 2 : 1) > bytes.length) throw new Error("a message ends inside its head");
  let route;
  if (flag & 1) {
    route = bytes.readUInt16BE(at);
    at += 2;
  } else {
    route = bytes.subarray(at + 1, at + 1 + bytes[at]).toString();
    at += 1 + bytes[at];
  }
  const body = bytes.subarray(at);
  return { type, id, route, body, json: () => JSON.parse(body.toString()) };
}

/** One connection of a client. */
export class Connection {
  packages = [];
  #waiting = [];
  #input = Buffer.alloc(0);
  #raw = Buffer.alloc(0);
  ended = null;

  constructor(socket) {
    this.socket = socket;
    this.kind = null;
    socket.setNoDelay(true);
    socket.on("data", (chunk) => this.#data(chunk));
    socket.on("error", () => {});
    socket.on("end", () => socket.end());
    socket.on("close", () => this.#end("cut"));
  }

  #data(chunk) {
    this.kind ??= chunk[0] >= 1 && chunk[0] <= 5 ? "tcp" : "upgrade";
    if (this.kind === "tcp") return this.#bytes(chunk);
    this.#raw = Buffer.concat([this.#raw, chunk]);
    if (this.kind === "upgrade") {
      const end = this.#raw.indexOf("\r\n\r\n");
      if (end < 0) return;
      const key = /^sec-websocket-key:\s*(\S+)/im.exec(this.#raw.subarray(0, end).toString())?.[1];
      if (!key) return this.socket.end("HTTP/1.1 426 Upgrade Required\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
      const accept = createHash("sha1").update(key + GUID).digest("base64");
      this.socket.write(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`);
      this.kind = "ws";
      this.#raw = this.#raw.subarray(end + 4);
    }
    this.#frames();
  }

  #frames() {
    for (;;) {
      const raw = this.#raw;
      if (raw.length < 2) return;
      let length = raw[1] & 127;
      let at = 2;
      if (length > 125) {
        at = length === 126 ? 4 : 10;
        if (raw.length < at) return;
        length = length === 126 ? raw.readUInt16BE(2) : Number(raw.readBigUInt64BE(2));
      }
      if (raw.length < at + 4 + length) return;
      const mask = raw.subarray(at, at + 4);
      const body = Buffer.from(raw.subarray(at + 4, at + 4 + length).map((byte, i) => byte ^ mask[i & 3]));
      this.#raw = raw.subarray(at + 4 + length);
      const code = raw[0] & 15;
      if (code === 8) {
        const status = body.length >= 2 ? body.readUInt16BE(0) : 1005;
        this.#end(status === 1000 || status === 1005 ? "goodbye" : "cut");
        this.#frame(8, body);
        return this.socket.end();
      }
      if (code === 9) this.#frame(10, body);
      else if (code === 1 || code === 2 || code === 0) this.#bytes(body);
    }
  }

  #frame(code, body) {
    const head = body.length < 126 ? Buffer.from([128 | code, body.length]) : body.length < 65536 ? Buffer.from([128 | code, 126, body.length >> 8, body.length & 255]) : Buffer.alloc(10);
    if (head.length === 10) {
      head[0] = 128 | code;
      head[1] = 127;
      head.writeBigUInt64BE(BigInt(body.length), 2);
    }
    if (this.socket.writable) this.socket.write(Buffer.concat([head, body]));
  }

  #bytes(chunk) {
    this.#input = Buffer.concat([this.#input, chunk]);
    while (this.#input.length >= 4) {
      const end = 4 + this.#input.readUIntBE(1, 3);
      if (this.#input.length < end) return;
      const found = { kind: this.#input[0], body: this.#input.subarray(4, end) };
      this.#input = this.#input.subarray(end);
      if (found.kind === KIND.kick) this.#end("goodbye");
      else this.#tell(found);
    }
  }

  #tell(found) {
    this.packages.push(found);
    for (const look of this.#waiting.splice(0)) look();
  }

  #end(how) {
    this.ended ??= how;
    for (const look of this.#waiting.splice(0)) look();
  }

  /** The next package, whatever it is; fails at the end of the connection. */
  async next() {
    while (!this.packages.length) {
      if (this.ended) throw new Error(`the client's connection ended (${this.ended}) before the package that was due`);
      await new Promise((look) => this.#waiting.push(look));
    }
    return this.packages.shift();
  }

  /** The next package, which must be of that kind. Heartbeats that come between are skipped, unless one is wanted. */
  async expect(kind) {
    for (;;) {
      const found = await this.next();
      if (found.kind === kind) return found.body;
      if (found.kind === KIND.heartbeat) {
        this.onHeartbeat?.(found.body);
        continue;
      }
      throw new Error(`expected ${NAMES[kind]}, the client sent ${NAMES[found.kind] ?? found.kind} ${found.body.toString("hex")}`);
    }
  }

  /** The next message, which must have that route. */
  async message(type, route) {
    const found = readMessage(await this.expect(KIND.data));
    if (found.type !== type || found.route !== route) throw new Error(`expected a ${type} ${route}, the client sent a ${found.type} ${found.route}`);
    return found;
  }

  /** `goodbye` or `cut`. */
  async end() {
    while (!this.ended) await new Promise((look) => this.#waiting.push(look));
    return this.ended;
  }

  /** Writes bytes as they are: on a WebSocket one binary message. */
  write(bytes) {
    if (this.kind === "ws") this.#frame(2, bytes);
    else if (this.socket.writable) this.socket.write(bytes);
  }

  send(kind, body) {
    this.write(pack(kind, body));
  }

  data(...messages) {
    for (const message of messages) this.send(KIND.data, message);
  }

  /** The transport goes, without a word. */
  cut() {
    this.socket.destroy();
  }
}

/** Listens on a free port or `port`; `accept()` gives the next connection that completes its first package. */
export async function listen(port = 0, host = "127.0.0.1") {
  const queue = [];
  const waiting = [];
  const all = new Set();
  const server = createServer((socket) => {
    const connection = new Connection(socket);
    all.add(connection);
    socket.on("close", () => all.delete(connection));
    const next = waiting.shift();
    next ? next(connection) : queue.push(connection);
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
  return {
    port: server.address().port,
    accept: () => (queue.length ? Promise.resolve(queue.shift()) : new Promise((resolve) => waiting.push(resolve))),
    close() {
      for (const connection of all) connection.cut();
      server.close();
    },
  };
}
