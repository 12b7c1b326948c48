// Built from clients/typescript by `npm run build`; do not edit.


// src/bytes.ts
var SHORT = "the bytes end too early";
function utf8(text2) {
  const out = [];
  for (const char of text2) {
    let code = char.codePointAt(0);
    if (code >= 55296 && code < 57344) code = 65533;
    if (code < 128) out.push(code);
    else if (code < 2048) out.push(192 | code >> 6, 128 | code & 63);
    else if (code < 65536) out.push(224 | code >> 12, 128 | code >> 6 & 63, 128 | code & 63);
    else out.push(240 | code >> 18, 128 | code >> 12 & 63, 128 | code >> 6 & 63, 128 | code & 63);
  }
  return Uint8Array.from(out);
}
function text(bytes) {
  let out = "";
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++];
    let more = first < 128 ? 0 : first >= 194 && first < 224 ? 1 : first >= 224 && first < 240 ? 2 : first >= 240 && first < 245 ? 3 : -1;
    let code = more < 0 ? 65533 : more === 0 ? first : first & 63 >> more;
    const length = more;
    for (; more > 0; more--) {
      const next = bytes[at];
      if (next === void 0 || (next & 192) !== 128) break;
      code = code << 6 | next & 63;
      at++;
    }
    const bad = more > 0 || code > 1114111 || length === 2 && code < 2048 || length === 3 && code < 65536 || code >= 55296 && code < 57344;
    out += String.fromCodePoint(bad ? 65533 : code);
  }
  return out;
}
function putVarint(out, value) {
  for (; value >= 128; value = Math.floor(value / 128)) out.push(value % 128 + 128);
  out.push(value);
}
var Reader = class {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }
  get left() {
    return this.bytes.length - this.at;
  }
  byte() {
    if (this.left < 1) throw new Error(SHORT);
    return this.bytes[this.at++];
  }
  varint() {
    let value = 0;
    let factor = 1;
    for (let n = 0; n < 10; n++) {
      const byte = this.byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
    throw new Error("a number does not end");
  }
  take(length) {
    if (length > this.left) throw new Error(SHORT);
    return this.bytes.subarray(this.at, this.at += length);
  }
};
function join(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

// src/inflate.ts
var BROKEN = "compressed bytes are broken";
var LENGTHS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
var LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
var ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
function codes(lengths) {
  const counts = Array(16).fill(0);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  const symbols = [];
  for (let length = 1; length < 16; length++) lengths.forEach((of, symbol) => of === length && symbols.push(symbol));
  return { counts, symbols };
}
var isZipped = (bytes) => bytes.length > 2 && (bytes[0] === 120 && [1, 94, 156, 218].includes(bytes[1]) || bytes[0] === 31 && bytes[1] === 139);
function inflate(input, limit) {
  const reader = new Reader(input);
  const first = reader.byte();
  const second = reader.byte();
  if (first === 31 && second === 139) gzipHead(reader);
  else if ((first & 15) !== 8 || (first * 256 + second) % 31 || second & 32) throw new Error(BROKEN);
  let out = new Uint8Array(Math.min(limit, Math.max(1024, input.length * 4)));
  let size = 0;
  let held = 0;
  let count2 = 0;
  const bits = (want) => {
    for (; count2 < want; count2 += 8) held |= reader.byte() << count2;
    const value = held & (1 << want) - 1;
    held >>>= want;
    count2 -= want;
    return value;
  };
  const room = (more) => {
    if (size + more > limit) throw new Error(`compressed bytes give more than ${limit}`);
    if (size + more <= out.length) return;
    const grown = new Uint8Array(Math.min(limit, Math.max(size + more, out.length * 2)));
    grown.set(out);
    out = grown;
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0;
    let start = 0;
    let index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      const here = counts[length];
      if (code - here < start) return symbols[index + code - start];
      index += here;
      start = start + here << 1;
      code <<= 1;
    }
    throw new Error(BROKEN);
  };
  const lists = () => {
    const literals = bits(5) + 257;
    const distances = bits(5) + 1;
    const short = Array(19).fill(0);
    for (let i = 0, n = bits(4) + 4; i < n; i++) short[ORDER[i]] = bits(3);
    const table = codes(short);
    const lengths = [];
    while (lengths.length < literals + distances) {
      const found = symbol(table);
      if (found < 16) lengths.push(found);
      else {
        const repeated = found === 16 ? lengths[lengths.length - 1] : 0;
        if (repeated === void 0) throw new Error(BROKEN);
        const times = found === 16 ? 3 + bits(2) : found === 17 ? 3 + bits(3) : 11 + bits(7);
        for (let i = 0; i < times; i++) lengths.push(repeated);
      }
    }
    if (lengths.length > literals + distances) throw new Error(BROKEN);
    return [codes(lengths.slice(0, literals)), codes(lengths.slice(literals))];
  };
  const fixed = () => [
    codes(Array.from({ length: 288 }, (_, i) => i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8)),
    codes(Array(30).fill(5))
  ];
  for (let last = 0; !last; ) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      held = count2 = 0;
      const length = reader.byte() | reader.byte() << 8;
      if (length !== (~(reader.byte() | reader.byte() << 8) & 65535)) throw new Error(BROKEN);
      room(length);
      out.set(reader.take(length), size);
      size += length;
      continue;
    }
    if (kind === 3) throw new Error(BROKEN);
    const [literal, distance] = kind === 1 ? fixed() : lists();
    for (; ; ) {
      const found = symbol(literal);
      if (found === 256) break;
      if (found < 256) {
        room(1);
        out[size++] = found;
        continue;
      }
      const base = LENGTHS[found - 257];
      if (base === void 0) throw new Error(BROKEN);
      const length = base + bits(LENGTH_BITS[found - 257]);
      const far = symbol(distance);
      if (!(far < 30)) throw new Error(BROKEN);
      const extra = far < 2 ? 0 : (far >> 1) - 1;
      const back = (far < 2 ? far : 2 + (far & 1) << extra) + 1 + bits(extra);
      if (back > size) throw new Error(BROKEN);
      room(length);
      for (let i = 0; i < length; i++, size++) out[size] = out[size - back];
    }
  }
  return out.subarray(0, size);
}
function gzipHead(reader) {
  if (reader.byte() !== 8) throw new Error(BROKEN);
  const flags = reader.byte();
  reader.take(6);
  if (flags & 4) reader.take(reader.byte() | reader.byte() << 8);
  for (const flag of [8, 16]) if (flags & flag) while (reader.byte()) ;
  if (flags & 2) reader.take(2);
}

// src/protobuf.ts
var WIRE = { uInt32: 0, int32: 0, sInt32: 0, bool: 0, uInt64: 0, sInt64: 0, double: 1, float: 5 };
var MAX_DEPTH = 64;
var has = (object, name) => Object.prototype.hasOwnProperty.call(object, name);
function nested(schema, root, type) {
  const near = schema.__messages;
  const name = "message " + type;
  const found = near && has(near, type) ? near[type] : has(root, name) ? root[name] : null;
  if (!found) throw new Error(`the schema has no message ${type}`);
  return found;
}
function fieldOf(schema, name) {
  const field = name.startsWith("__") || !has(schema, name) ? null : schema[name];
  return field && typeof field.tag === "number" ? field : null;
}
function encode(schema, root, value, path = "", depth = 0) {
  const at = path || "the body";
  if (value === null || typeof value !== "object") throw new Error(`${at} must be an object`);
  if (depth > MAX_DEPTH) throw new Error(`${at} is nested too deeply`);
  for (const name of Object.keys(schema)) {
    if (fieldOf(schema, name)?.option === "required" && value[name] === void 0) throw new Error(`${path}${name} is required`);
  }
  const out = [];
  for (const name of Object.keys(value)) {
    const field = fieldOf(schema, name);
    const content = value[name];
    if (!field || content === void 0) continue;
    const { option, type } = field;
    const wire = option === "map" || option === "obj" ? 2 : WIRE[type] ?? 2;
    const head = [];
    putVarint(head, field.tag * 8 + wire);
    const one = (item, of = type, where = name, scope = schema) => putValue(out, of, scope, root, item, path + where, depth);
    if (option === "repeated") {
      if (!Array.isArray(content)) throw new Error(`${path}${name} must be an array`);
      if (wire !== 2) {
        if (!content.length) continue;
        putVarint(head, content.length);
        out.push(head);
      }
      content.forEach((item) => {
        if (wire === 2) out.push(head);
        one(item);
      });
    } else if (option === "map" || option === "obj") {
      const entries = option === "map" ? Array.from(content) : Object.entries(content);
      if (option === "obj" && !entries.length) continue;
      putVarint(head, entries.length);
      out.push(head);
      const pair = nested(schema, root, type);
      for (const [key, item] of entries) {
        one(key, pair.key.type, name + ".key", pairScope(schema, pair));
        one(item, pair.value.type, name + ".value", pairScope(schema, pair));
      }
    } else {
      out.push(head);
      one(content);
    }
  }
  return join(...out);
}
var pairScope = (schema, pair) => ({ __messages: { ...schema.__messages, ...pair.__messages } });
function putValue(out, type, schema, root, value, path, depth) {
  const bytes = [];
  const integer = () => {
    const number = typeof value === "string" && value.trim() ? Number(value) : value;
    if (typeof number !== "number" || !isFinite(number)) throw new Error(`${path} must be a number`);
    return Math.trunc(number);
  };
  switch (type) {
    case "uInt32":
    case "uInt64": {
      const number = integer();
      if (number < 0) throw new Error(`${path} must not be negative`);
      putVarint(bytes, number);
      break;
    }
    case "int32":
    case "sInt32":
    case "sInt64": {
      const number = integer();
      putVarint(bytes, number < 0 ? -number * 2 - 1 : number * 2);
      break;
    }
    case "bool":
      bytes.push(value ? 1 : 0);
      break;
    case "float":
    case "double": {
      const number = typeof value === "string" && value.trim() ? Number(value) : value;
      if (typeof number !== "number") throw new Error(`${path} must be a number`);
      const size = type === "float" ? 4 : 8;
      const view = new DataView(new ArrayBuffer(size));
      if (size === 4) view.setFloat32(0, number, true);
      else view.setFloat64(0, number, true);
      bytes.push(...new Uint8Array(view.buffer));
      break;
    }
    default: {
      if (type === "string" && value === null) throw new Error(`${path} must be a text`);
      const content = type === "string" ? utf8(String(value)) : encode(nested(schema, root, type), root, value, path + ".", depth + 1);
      putVarint(bytes, content.length);
      out.push(bytes, content);
      return;
    }
  }
  out.push(bytes);
}
function decode(schema, root, bytes, depth = 0) {
  if (depth > MAX_DEPTH) throw new Error("a body is nested too deeply");
  const reader = new Reader(bytes);
  const value = {};
  while (reader.left) {
    const tag = Math.floor(reader.varint() / 8);
    const name = schema.__tags?.[tag];
    const field = name === void 0 ? null : fieldOf(schema, name);
    if (!field) throw new Error(`a body has a field ${tag} that its schema lacks`);
    const { option, type } = field;
    const one = (of = type, scope = schema) => takeValue(reader, of, scope, root, depth);
    if (option === "repeated") {
      const list = value[name] ?? (value[name] = []);
      let count2 = type in WIRE ? reader.varint() : 1;
      if (type in WIRE && count2 > reader.left) throw new Error(`${name} has fewer elements than it says`);
      while (count2-- > 0) list.push(one());
    } else if (option === "map" || option === "obj") {
      const pair = nested(schema, root, type);
      const entries = [];
      for (let count2 = reader.varint(); count2 > 0; count2--) entries.push([one(pair.key.type, pairScope(schema, pair)), one(pair.value.type, pairScope(schema, pair))]);
      value[name] = option === "map" ? new Map(entries) : fromEntries(entries);
    } else {
      value[name] = one();
    }
  }
  return value;
}
function fromEntries(entries) {
  const object = {};
  for (const [key, value] of entries) Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });
  return object;
}
function takeValue(reader, type, schema, root, depth) {
  switch (type) {
    case "uInt32":
    case "uInt64":
      return reader.varint();
    case "int32":
    case "sInt32":
    case "sInt64": {
      const zigzag = reader.varint();
      return zigzag % 2 ? -(zigzag + 1) / 2 : zigzag / 2;
    }
    case "bool":
      return reader.varint() !== 0;
    case "float":
    case "double": {
      const size = type === "float" ? 4 : 8;
      const part = reader.take(size);
      const view = new DataView(part.buffer, part.byteOffset, size);
      return size === 4 ? view.getFloat32(0, true) : view.getFloat64(0, true);
    }
    default: {
      const part = reader.take(reader.varint());
      return type === "string" ? text(part) : decode(nested(schema, root, type), root, part, depth + 1);
    }
  }
}

// src/wire.ts
var HANDSHAKE = 1;
var ACK = 2;
var HEARTBEAT = 3;
var DATA = 4;
var KICK = 5;
var REQUEST = 0;
var NOTIFY = 1;
var RESPONSE = 2;
var PUSH = 3;
var MAX_BODY = 16777215;
function encodePackage(kind, body = []) {
  const { length } = body;
  if (length > MAX_BODY) throw new Error(`a package carries ${MAX_BODY} bytes at most, this body has ${length}`);
  return join([kind, length >> 16, length >> 8 & 255, length & 255], body);
}
var Packages = class {
  constructor() {
    this.o = [];
    this.s = 0;
  }
  push(bytes) {
    this.o.push(bytes);
    this.s += bytes.length;
  }
  /** The next complete package. Throws when the bytes cannot be one. */
  next() {
    if (this.s < 4) return null;
    let head = this.o[0];
    if (head.length < 4) head = this.S();
    const kind = head[0];
    if (kind < HANDSHAKE || kind > KICK) throw new Error(`${kind} is no type of a package`);
    const end = 4 + (head[1] << 16 | head[2] << 8 | head[3]);
    if (this.s < end) return null;
    if (head.length < end) head = this.S();
    this.o[0] = head.subarray(end);
    this.s -= end;
    return { kind, body: head.subarray(4, end) };
  }
  /** Once for a head and once for a whole package, so that a large one in small chunks is copied once. */
  S() {
    const all = join(...this.o);
    this.o = [all];
    return all;
  }
};
function encodeMessage(type, id, route, body) {
  const coded = typeof route === "number";
  const out = [type << 1 | (coded ? 1 : 0)];
  if (type === REQUEST || type === RESPONSE) putVarint(out, id);
  if (type === RESPONSE || route === null) return join(out, body);
  if (coded) return join(out, [route >> 8, route & 255], body);
  const name = utf8(route);
  if (name.length > 255) throw new Error(`a route has 255 bytes at most, this one has ${name.length}: ${route.slice(0, 40)}`);
  return join(out, [name.length], name, body);
}
function decodeMessage(bytes) {
  const reader = new Reader(bytes);
  const flag = reader.byte();
  const type = flag >> 1 & 7;
  if (type > PUSH) throw new Error(`${type} is no type of a message`);
  const id = type === REQUEST || type === RESPONSE ? reader.varint() : 0;
  let route = null;
  if (type !== RESPONSE) route = flag & 1 ? reader.byte() << 8 | reader.byte() : text(reader.take(reader.byte()));
  return { type, id, route, zipped: (flag & 16) > 0, error: (flag & 32) > 0, body: reader.take(reader.left) };
}

// src/bodies.ts
var Bodies = class {
  constructor(pitaya, _codec) {
    this.pitaya = pitaya;
    this.G = _codec;
    this.C = /* @__PURE__ */ new Map();
    this.t = /* @__PURE__ */ new Map();
    this.D = {};
    this.E = {};
    /** The server's serializer is Google protobuf: bodies are bytes. */
    this.F = false;
  }
  /** What a new session says in its handshake. One that goes on keeps what it began with. */
  begin(sys) {
    this.C = new Map(Object.entries(sys.dict ?? {}));
    this.t = /* @__PURE__ */ new Map();
    for (const [route, code] of this.C) this.t.set(code, route);
    for (const [code, route] of Object.entries(sys.codeToRoute ?? {})) this.t.set(Number(code), route);
    this.D = sys.protos?.client ?? {};
    this.E = sys.protos?.server ?? {};
    this.F = sys.serializer === "protobuf";
  }
  codeOf(route) {
    return this.C.get(route) ?? route;
  }
  routeOf(route) {
    if (typeof route === "string") return route;
    const found = this.t.get(route);
    if (found === void 0) throw new Error(`the dictionary has no code ${route}`);
    return found;
  }
  write(route, body) {
    const own = this.G?.encode(route, body);
    if (own) return own;
    if (body instanceof Uint8Array) return body;
    if (this.F) throw new Error("this server wants bodies as bytes (Uint8Array): its serializer is protobuf");
    const schema = schemaOf(this.D, route);
    if (schema) return encode(schema, this.D, body ?? {});
    const json = JSON.stringify(body ?? {});
    if (json === void 0) throw new Error("the body is not JSON value");
    return utf8(json);
  }
  read(route, { body, zipped, error }) {
    const bytes = zipped && this.pitaya ? inflate(body, MAX_BODY) : body;
    if (this.G) {
      const own = this.G.decode(route, bytes);
      if (own !== null) return own;
    }
    if (this.F) return bytes;
    const schema = error && this.pitaya ? null : schemaOf(this.E, route);
    if (schema) return decode(schema, this.E, bytes);
    return bytes.length ? JSON.parse(text(bytes)) : {};
  }
};
var schemaOf = (schemas, route) => Object.prototype.hasOwnProperty.call(schemas, route) ? schemas[route] : null;

// src/types.ts
var ClientError = class extends Error {
  constructor(code, message, body) {
    super(message);
    this.code = code;
    this.body = body;
    this.name = "ClientError";
  }
};

// src/emitter.ts
var Emitter = class {
  constructor(_failed) {
    this.T = _failed;
    this.i = /* @__PURE__ */ new Map();
  }
  on(name, listener) {
    this.i.set(name, [...this.i.get(name) ?? [], listener]);
  }
  off(name, listener) {
    const left = (this.i.get(name) ?? []).filter((one) => one !== listener);
    if (left.length) this.i.set(name, left);
    else this.i.delete(name);
  }
  has(name) {
    return this.i.has(name);
  }
  emit(name, value) {
    for (const listener of this.i.get(name) ?? []) {
      try {
        const result = listener(value);
        if (typeof result?.then === "function") result.then(void 0, (error) => this.T(asError(error), name));
      } catch (error) {
        this.T(asError(error), name);
      }
    }
  }
};
var asError = (error) => error instanceof Error ? error : new Error(String(error));
var FULL = 1024;
var Queue = class {
  constructor(_ended) {
    this.ba = _ended;
    this.p = [];
    this.c = [];
    this.u = false;
    this.w = null;
  }
  /** Nothing is dropped silently: a loop that falls `FULL` values behind ends with an error. */
  push(value) {
    if (this.u) return;
    const next = this.c.shift();
    if (next) next.resolve({ value, done: false });
    else if (this.p.length < FULL) this.p.push(value);
    else this.end(new ClientError("full", `${FULL} pushes wait for this loop`));
  }
  end(error = null) {
    if (this.u) return;
    this.u = true;
    this.w = error;
    this.ba();
    for (const { resolve, reject } of this.c.splice(0)) error ? reject(error) : resolve({ value: void 0, done: true });
  }
  next() {
    if (this.p.length) return Promise.resolve({ value: this.p.shift(), done: false });
    if (this.w) {
      const { w: error } = this;
      this.w = null;
      return Promise.reject(error);
    }
    if (this.u) return Promise.resolve({ value: void 0, done: true });
    return new Promise((resolve, reject) => this.c.push({ resolve, reject }));
  }
  return() {
    this.p = [];
    this.end();
    return Promise.resolve({ value: void 0, done: true });
  }
  [Symbol.asyncIterator]() {
    return this;
  }
};

// src/resume.ts
var count = (value) => Number.isSafeInteger(value) && value >= 0;
function readGrant(value) {
  if (!value || value.v !== 1 || typeof value.token !== "string" || !value.token || value.token.length > 128) return null;
  if (!count(value.ack) || value.ack < 1) return null;
  const resumed = value.resumed === true;
  if (resumed && !(count(value.received) && count(value.position) && count(value.missed ?? 0))) throw new Error("the answer to a resumption lacks its counts");
  const { token, ack, received = 0, position = 0, missed = 0, why = "" } = value;
  const address = typeof value.address === "string" && value.address ? value.address : void 0;
  return { token, ack, address, resumed, received, position, missed, why: String(why) };
}
var Ledger = class {
  constructor(grant) {
    this.grant = grant;
    /** DATA packages since the session began. */
    this.sent = 0;
    this.received = 0;
    /** What the server has acknowledged, and what we have. */
    this.x = 0;
    this.y = 0;
    this.z = [];
  }
  get pending() {
    return this.z.length;
  }
  /** What was sent and is not acknowledged, oldest first. */
  unacknowledged() {
    return this.z;
  }
  keep(bytes) {
    this.sent++;
    this.z.push(bytes);
  }
  /** The server's acknowledgement: the body of a HEARTBEAT. */
  heartbeat(body) {
    if (!body.length) return;
    const reader = new Reader(body);
    const upTo = reader.varint();
    if (reader.left) throw new Error("an acknowledgement has bytes behind its number");
    this.U(upTo);
  }
  U(upTo) {
    if (upTo < this.x || upTo > this.sent) throw new Error(`the server acknowledges ${upTo} messages of ${this.sent}, after ${this.x}`);
    this.z.splice(0, upTo - this.x);
    this.x = upTo;
  }
  /** Whether an acknowledgement is owed now. */
  owes() {
    return this.received - this.y >= this.grant.ack;
  }
  /** The body of our next HEARTBEAT. */
  acknowledge() {
    const body = [];
    if (this.received === this.y) return body;
    this.y = this.received;
    putVarint(body, this.received);
    return body;
  }
  /** What a new connection says of this session. Early: what the server sends again may come directly behind its answer. */
  request() {
    return { v: 1, token: this.grant.token, received: this.received, sent: this.sent, early: true };
  }
  /** The server goes on with the session. What follows `unacknowledged()` is to be sent again. */
  resume(grant) {
    this.U(grant.received);
    if (grant.position < this.received) throw new Error(`the server counts from ${grant.position}, but ${this.received} messages came`);
    this.received = this.y = grant.position;
    this.grant = { ...grant, address: grant.address ?? this.grant.address };
  }
};

// src/transport.ts
function webSocket(Class) {
  return (url) => {
    let socket;
    return {
      open(events) {
        const Found = Class ?? globalThis.WebSocket;
        if (!Found) throw new Error("there is no WebSocket here: pass one, as in connect(url, { transport: webSocket(WebSocket) })");
        socket = new Found(url);
        socket.binaryType = "arraybuffer";
        socket.onopen = () => events.opened();
        socket.onmessage = ({ data }) => {
          if (typeof data !== "string") events.data(new Uint8Array(data));
        };
        socket.onerror = () => {
        };
        socket.onclose = ({ code }) => events.ended(`the WebSocket closed with status ${code}`);
      },
      send(bytes) {
        if (socket.readyState === 1) socket.send(bytes);
      },
      close(goodbye) {
        if (!socket) return;
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close(goodbye ? 1e3 : 4e3);
      }
    };
  };
}

// src/client.ts
var VERSION = "0.1.0";
var EVENTS = ["open", "suspended", "resumed", "restarted", "kicked", "closed", "error"];
var STABLE = 5e3;
var ALL = "*";
function connect(url, options) {
  return new Client(url, options).connect();
}
var Client = class {
  constructor(url, _options = {}) {
    this.url = url;
    this.g = _options;
    this.b = "idle";
    this.d = null;
    this.a = null;
    this.V = 1;
    this.c = /* @__PURE__ */ new Map();
    this.h = null;
    this.H = /* @__PURE__ */ new Set();
    this.I = [];
    this.j = 0;
    this.J = 0;
    this.A = 0;
    this.K = 0;
    const failed = (error, name) => this.N(error, name);
    this.f = new Emitter(failed);
    this.m = new Emitter(failed);
    this.e = new Bodies(_options.dialect === "pitaya", _options.codec);
  }
  /** `idle` (never connected), `connecting`, `open`, `suspended` (lost, and coming back) or `closed`, which is final. */
  get state() {
    return this.b;
  }
  /** Whether the server keeps this session when the connection is lost. */
  get resumable() {
    return this.a !== null;
  }
  /** Connects, once. `connect()` of the module does it for you. */
  connect() {
    if (this.b !== "idle") return Promise.reject(new ClientError("closed", "a client connects once; make another one"));
    this.b = "connecting";
    return new Promise((resolve, reject) => {
      this.h = { resolve, reject };
      this.O();
    });
  }
  request(route, body, { timeout, signal } = {}) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) throw aborted(signal);
      if (this.c.size >= this.B) throw new ClientError("full", `${this.c.size} requests wait for answers`);
      const id = this.V;
      this.X(REQUEST, id, route, body);
      this.V = id === 2147483647 ? 1 : id + 1;
      const fail = (code, message) => settle(new ClientError(code, `${route}: ${message}`));
      const wait = timeout ?? this.g.requestTimeout ?? 1e4;
      const timer = setTimeout(() => fail("timeout", `no answer within ${wait} ms`), wait);
      const onAbort = () => settle(aborted(signal));
      const settle = (error, answer) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this.c.delete(id);
        this.r();
        error ? reject(error) : resolve(answer);
      };
      signal?.addEventListener("abort", onAbort);
      this.c.set(id, { route, settle });
    });
  }
  /** Sends a message that gets no answer. Throws a `ClientError` if there is no session or no room. */
  notify(route, body) {
    this.X(NOTIFY, 0, route, body);
  }
  /** Resolves when there is room for another message; rejects when the client is closed. */
  ready() {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.b === "closed") reject(new ClientError("closed", "the client is closed"));
        else if (this.Y()) resolve();
        else this.I.push(look);
      };
      look();
    });
  }
  on(name, listener) {
    this.Z(name).on(name, listener);
    return () => this.off(name, listener);
  }
  off(name, listener) {
    this.Z(name).off(name, listener);
  }
  /** As `on`, for pushes whose route has the name of an event, such as `closed`; `*` hears all pushes as `{ route, body }`. */
  onPush(route, listener) {
    this.m.on(route, listener);
    return () => this.m.off(route, listener);
  }
  /** `for await (const { route, body } of client)`: all pushes from now on, until the client closes. */
  [Symbol.asyncIterator]() {
    const queue = new Queue(() => {
      stop();
      this.H.delete(queue);
    });
    const stop = this.onPush(ALL, (push) => queue.push(push));
    if (this.b === "closed") queue.end();
    else this.H.add(queue);
    return queue;
  }
  /** Ends the session: the server is told, nothing is kept, requests that wait are rejected. */
  close() {
    this.k("closed", "close() was called", true);
  }
  /** Cuts the connection as a bad network would. The client comes back by itself. For tests and demonstrations. */
  interrupt() {
    if (this.d) this.l(this.d, "interrupted");
  }
  /** A client that waits before its next attempt makes it now, for example because the network is back. */
  retry() {
    if (this.b === "suspended" && !this.d) this.O();
  }
  get B() {
    return this.g.maxPending ?? 256;
  }
  Z(name) {
    return EVENTS.includes(name) ? this.f : this.m;
  }
  /** An error that is nobody's answer. One of a listener of errors is only logged. */
  N(error, name = "") {
    if (name !== "error" && this.f.has("error")) this.f.emit("error", error);
    else console.error("shaddock-client:", error);
  }
  // ---- connecting
  O() {
    clearTimeout(this.M);
    const home = this.a?.grant.address;
    const url = home && this.K++ % 2 === 0 ? home : this.url;
    const link = {
      transport: (this.g.transport ?? webSocket())(url),
      packages: new Packages(),
      working: false,
      resuming: false,
      since: 0
    };
    this.d = link;
    const wait = this.g.connectTimeout ?? 8e3;
    this.L = setTimeout(() => this.l(link, `no handshake within ${wait} ms`), wait);
    const mine = () => this.d === link;
    try {
      link.transport.open({
        opened: () => mine() && this.ca(link),
        data: (bytes) => mine() && this.da(link, bytes),
        ended: (why) => mine() && this.l(link, why ?? "the connection ended")
      });
    } catch (error) {
      this.l(link, asError(error).message);
    }
  }
  ca(link) {
    const { dialect, user, sys, resume } = this.g;
    const who = dialect === "pitaya" ? { platform: "js", libVersion: VERSION, clientBuildNumber: "1", clientVersion: "1" } : { type: "shaddock-ts", version: VERSION, rsa: {} };
    link.resuming = this.a !== null;
    const asked = resume === false ? void 0 : this.a?.request() ?? { v: 1 };
    const given = typeof user === "function" ? user() : user;
    this.n(link, HANDSHAKE, utf8(JSON.stringify({ sys: { ...who, ...sys, resume: asked }, user: given })));
  }
  ea(link, body) {
    const answer = JSON.parse(text(isZipped(body) ? inflate(body, MAX_BODY) : body));
    const code = answer?.code;
    if (code !== 200) {
      if (this.h || !(code >= 500) || code === 501) return this.k("refused", `the server refused the handshake: code ${code}`, false, code);
      return this.l(link, `the server refused the handshake: code ${code}`);
    }
    clearTimeout(this.L);
    const sys = answer.sys ?? {};
    const grant = this.g.resume === false ? null : readGrant(sys.resume);
    this.j = sys.heartbeat > 0 ? sys.heartbeat * 1e3 : 0;
    link.working = true;
    link.since = this.J = Date.now();
    if (link.resuming && grant?.resumed) this.fa(link, grant);
    else this.ga(link, sys, grant);
  }
  /** A new session: the first one, or one in place of a session that is gone. */
  ga(link, sys, grant) {
    const lost = this.a?.pending ?? 0;
    const why = link.resuming ? grant?.why || "unsupported" : "not kept";
    this.e.begin(sys);
    this.a = grant && new Ledger(grant);
    this.K = 0;
    this.P("lost", `the session ended (${why})`);
    this._(link);
    const { h: first } = this;
    this.h = null;
    this.f.emit(first ? "open" : "restarted", first ? void 0 : { why, lost });
    first?.resolve(this);
    this.r();
  }
  fa(link, grant) {
    this.a.resume(grant);
    this.K = 0;
    this.A = 0;
    this._(link);
    for (const bytes of this.a.unacknowledged()) this.n(link, DATA, bytes);
    this.f.emit("resumed", { missed: grant.missed });
    this.r();
  }
  _(link) {
    this.b = "open";
    this.n(link, ACK);
    if (!this.j) return;
    this.$(link, 2 * this.j);
    if (this.e.pitaya) this.Q(link);
  }
  // ---- what comes
  da(link, bytes) {
    this.J = Date.now();
    try {
      link.packages.push(bytes);
      while (this.d === link) {
        const found = link.packages.next();
        if (!found) break;
        this.ha(link, found);
      }
    } catch (error) {
      this.k("protocol", asError(error).message);
    }
  }
  ha(link, { kind, body }) {
    if (kind === KICK) return this.ia(link, body);
    if (!link.working) {
      if (kind === HANDSHAKE) this.ea(link, body);
    } else if (kind === HEARTBEAT) {
      this.a?.heartbeat(body);
      this.r();
      if (!this.e.pitaya) this.Q(link);
    } else if (kind === DATA) {
      if (this.a) this.a.received++;
      this.ja(decodeMessage(body));
      if (this.d === link && this.a?.owes()) this.aa(link);
    }
  }
  ja(message) {
    if (message.type === RESPONSE) {
      const call = this.c.get(message.id);
      if (!call) return;
      try {
        const answer = this.e.read(call.route, message);
        if (!message.error || !this.e.pitaya) return call.settle(null, answer);
        call.settle(new ClientError("answer", `${call.route}: ${answer?.code ?? "error"} ${answer?.msg ?? ""}`, answer));
      } catch (error) {
        call.settle(new ClientError("decode", `${call.route}: the answer cannot be read: ${asError(error).message}`));
      }
    } else if (message.type === PUSH) {
      let push;
      try {
        const route = this.e.routeOf(message.route);
        push = { route, body: this.e.read(route, message) };
      } catch (error) {
        return this.N(new ClientError("decode", `a push (${message.route}) cannot be read: ${asError(error).message}`));
      }
      if (push.route !== ALL) this.m.emit(push.route, push.body);
      this.m.emit(ALL, push);
    }
  }
  ia(link, body) {
    let reason = "";
    try {
      reason = String(JSON.parse(text(body)).reason ?? "");
    } catch {
    }
    const again = !this.h && this.g.reconnect !== false && this.g.reconnectAfterKick?.(reason);
    if (again) {
      this.a = null;
      this.l(link, `kicked: ${reason}`);
      this.f.emit("kicked", reason);
      return;
    }
    this.R();
    this.f.emit("kicked", reason);
    this.k("kicked", `the server kicked this client: ${reason || "no reason given"}`, false, reason);
  }
  // ---- heartbeats
  /** One is pending at most. */
  Q(link) {
    if (this.q || !this.j) return;
    this.q = setTimeout(() => {
      this.q = void 0;
      this.aa(link);
      if (this.e.pitaya) this.Q(link);
    }, this.j);
  }
  /** A HEARTBEAT, which says what was received. */
  aa(link) {
    this.n(link, HEARTBEAT, this.a?.acknowledge());
  }
  /** One timer watches, whatever the traffic: it looks when the last package came. */
  $(link, after) {
    this.W = setTimeout(() => {
      const left = 2 * this.j - (Date.now() - this.J);
      if (left > 0) this.$(link, left);
      else this.l(link, `nothing came for ${2 * this.j / 1e3} s`);
    }, after);
  }
  // ---- what goes
  Y() {
    return this.c.size < this.B && (!this.a || this.a.pending < this.B);
  }
  r() {
    if (this.I.length && (this.b === "closed" || this.Y())) for (const look of this.I.splice(0)) look();
  }
  X(type, id, route, body) {
    const { b: now, a: ledger, d: link } = this;
    if (now === "closed" || now === "idle") throw new ClientError("closed", `${route}: the client is ${now === "idle" ? "not connected" : "closed"}`);
    if (now !== "open" && !ledger) throw new ClientError("offline", `${route}: there is no session now`);
    if (ledger && ledger.pending >= this.B) throw new ClientError("full", `${route}: ${ledger.pending} messages are not acknowledged`);
    let bytes;
    try {
      bytes = encodeMessage(type, id, this.e.codeOf(route), this.e.write(route, body));
      if (bytes.length > MAX_BODY) throw new Error(`${bytes.length} bytes are too many`);
    } catch (error) {
      throw new ClientError("encode", `${route}: ${asError(error).message}`);
    }
    ledger?.keep(bytes);
    if (now === "open") this.n(link, DATA, bytes);
  }
  n(link, kind, body) {
    link.transport.send(encodePackage(kind, body));
  }
  // ---- ends
  /** Lets go of the connection. */
  R(goodbye = false) {
    for (const timer of [this.L, this.q, this.W, this.M]) clearTimeout(timer);
    this.q = void 0;
    const { d: link } = this;
    this.d = null;
    if (!link) return;
    try {
      if (goodbye && this.a && link.working) this.n(link, KICK);
      link.transport.close(goodbye);
    } catch (error) {
      this.N(asError(error));
    }
  }
  l(link, why) {
    if (this.d !== link) return;
    this.R();
    if (this.h) return this.k("unreachable", why);
    if (this.g.reconnect === false) return this.k("lost", why);
    const { min = 250, max = 1e4, attempts = 30 } = this.g.reconnect ?? {};
    if (link.working) {
      if (Date.now() - link.since >= STABLE) this.A = 0;
    } else if (this.A >= attempts) {
      return this.k("unreachable", why);
    }
    const wait = Math.min(max, min * 2 ** this.A++) * (1 - Math.random() / 2);
    this.M = setTimeout(() => this.O(), wait);
    const wasOpen = this.b === "open";
    this.b = "suspended";
    if (!wasOpen) return;
    if (!this.a) this.P("lost", `the connection was lost: ${why}`);
    this.f.emit("suspended", { why, resumable: this.resumable });
  }
  k(reason, why, goodbye = false, detail) {
    if (this.b === "closed") return;
    this.b = "closed";
    this.R(goodbye);
    this.a = null;
    const code = reason === "refused" || reason === "unreachable" || reason === "protocol" ? reason : "closed";
    this.h?.reject(new ClientError(code, why, detail));
    this.h = null;
    this.P("closed", why);
    this.r();
    this.f.emit("closed", reason);
    for (const queue of this.H) queue.end();
  }
  P(code, why) {
    for (const { route, settle } of [...this.c.values()]) settle(new ClientError(code, `${route}: ${why}`));
  }
};
var aborted = (signal) => new ClientError("aborted", "the request was aborted", signal.reason);
export {
  Client,
  ClientError,
  connect,
  webSocket
};
