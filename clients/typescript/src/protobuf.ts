// Protobuf as Pomelo and Pinus write it: integers of all signed types are zigzag, numeric arrays carry a count.

import { join, putVarint, Reader, text, utf8 } from "./bytes.js";

interface Field {
  option: string;
  type: string;
  tag: number;
}

/** A message as the handshake has it: its fields by name, `__messages` and `__tags`. */
export type Schema = { [name: string]: any };
/** Route → message, and `"message Name"` → message. */
export type Schemas = { [route: string]: Schema };

const WIRE: { [type: string]: number } = { uInt32: 0, int32: 0, sInt32: 0, bool: 0, uInt64: 0, sInt64: 0, double: 1, float: 5 };
const MAX_DEPTH = 64;

const has = (object: object, name: string) => Object.prototype.hasOwnProperty.call(object, name);

function nested(schema: Schema, root: Schemas, type: string): Schema {
  const near = schema.__messages;
  const name = "message " + type;
  const found = near && has(near, type) ? near[type] : has(root, name) ? root[name] : null;
  if (!found) throw new Error(`the schema has no message ${type}`);
  return found;
}

function fieldOf(schema: Schema, name: string): Field | null {
  const field = name.startsWith("__") || !has(schema, name) ? null : schema[name];
  return field && typeof field.tag === "number" ? field : null;
}

export function encode(schema: Schema, root: Schemas, value: any, path = "", depth = 0): Uint8Array {
  const at = path || "the body";
  if (value === null || typeof value !== "object") throw new Error(`${at} must be an object`);
  if (depth > MAX_DEPTH) throw new Error(`${at} is nested too deeply`);
  for (const name of Object.keys(schema)) {
    if (fieldOf(schema, name)?.option === "required" && value[name] === undefined) throw new Error(`${path}${name} is required`);
  }
  const out: (Uint8Array | number[])[] = [];
  for (const name of Object.keys(value)) {
    const field = fieldOf(schema, name);
    const content = value[name];
    if (!field || content === undefined) continue;
    const { option, type } = field;
    const wire = option === "map" || option === "obj" ? 2 : (WIRE[type] ?? 2);
    const head: number[] = [];
    putVarint(head, field.tag * 8 + wire);
    const one = (item: any, of = type, where = name, scope = schema) => putValue(out, of, scope, root, item, path + where, depth);
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
      const entries: [any, any][] = option === "map" ? Array.from(content) : Object.entries(content);
      if (option === "obj" && !entries.length) continue;
      putVarint(head, entries.length);
      out.push(head);
      const pair = nested(schema, root, type);
      for (const [key, item] of entries) {
        // Names of an entry's types are looked up beside the field, as everywhere.
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

const pairScope = (schema: Schema, pair: Schema): Schema => ({ __messages: { ...schema.__messages, ...pair.__messages } });

function putValue(out: (Uint8Array | number[])[], type: string, schema: Schema, root: Schemas, value: any, path: string, depth: number): void {
  const bytes: number[] = [];
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

export function decode(schema: Schema, root: Schemas, bytes: Uint8Array, depth = 0): any {
  if (depth > MAX_DEPTH) throw new Error("a body is nested too deeply");
  const reader = new Reader(bytes);
  const value: any = {};
  while (reader.left) {
    const tag = Math.floor(reader.varint() / 8);
    const name = schema.__tags?.[tag];
    const field = name === undefined ? null : fieldOf(schema, name);
    if (!field) throw new Error(`a body has a field ${tag} that its schema lacks`);
    const { option, type } = field;
    const one = (of = type, scope = schema) => takeValue(reader, of, scope, root, depth);
    if (option === "repeated") {
      const list = (value[name] ??= []);
      // Each element has a byte at least, so a count cannot make us reserve more than came.
      let count = type in WIRE ? reader.varint() : 1;
      if (type in WIRE && count > reader.left) throw new Error(`${name} has fewer elements than it says`);
      while (count-- > 0) list.push(one());
    } else if (option === "map" || option === "obj") {
      const pair = nested(schema, root, type);
      const entries: [any, any][] = [];
      for (let count = reader.varint(); count > 0; count--) entries.push([one(pair.key.type, pairScope(schema, pair)), one(pair.value.type, pairScope(schema, pair))]);
      value[name] = option === "map" ? new Map(entries) : fromEntries(entries);
    } else {
      value[name] = one();
    }
  }
  return value;
}

function fromEntries(entries: [any, any][]): any {
  const object = {};
  // A key such as `__proto__` is a key like all others.
  for (const [key, value] of entries) Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });
  return object;
}

function takeValue(reader: Reader, type: string, schema: Schema, root: Schemas, depth: number): any {
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
