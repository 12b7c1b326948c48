// Packages and messages: docs/protocol of shaddock, sections 1 and 2.

import { join, putVarint, Reader, text, utf8 } from "./bytes.js";

export const HANDSHAKE = 1;
export const ACK = 2;
export const HEARTBEAT = 3;
export const DATA = 4;
export const KICK = 5;

export const REQUEST = 0;
export const NOTIFY = 1;
export const RESPONSE = 2;
export const PUSH = 3;

/** The largest body a package can carry. */
export const MAX_BODY = 0xffffff;

export interface Package {
  kind: number;
  body: Uint8Array;
}

export function encodePackage(kind: number, body: Uint8Array | number[] = []): Uint8Array {
  const { length } = body;
  if (length > MAX_BODY) throw new Error(`a package carries ${MAX_BODY} bytes at most, this body has ${length}`);
  return join([kind, length >> 16, (length >> 8) & 255, length & 255], body);
}

/** Finds packages in a stream that may be cut anywhere. */
export class Packages {
  private _chunks: Uint8Array[] = [];
  private _length = 0;

  push(bytes: Uint8Array): void {
    this._chunks.push(bytes);
    this._length += bytes.length;
  }

  /** The next complete package. Throws when the bytes cannot be one. */
  next(): Package | null {
    if (this._length < 4) return null;
    let head = this._chunks[0]!;
    if (head.length < 4) head = this._merge();
    const kind = head[0]!;
    if (kind < HANDSHAKE || kind > KICK) throw new Error(`${kind} is no type of a package`);
    const end = 4 + ((head[1]! << 16) | (head[2]! << 8) | head[3]!);
    if (this._length < end) return null;
    if (head.length < end) head = this._merge();
    this._chunks[0] = head.subarray(end);
    this._length -= end;
    return { kind, body: head.subarray(4, end) };
  }

  /** Once for a head and once for a whole package, so that a large one in small chunks is copied once. */
  private _merge(): Uint8Array {
    const all = join(...this._chunks);
    this._chunks = [all];
    return all;
  }
}

export interface Message {
  type: number;
  id: number;
  /** A code of the dictionary, or the route's text; a response has none. */
  route: number | string | null;
  zipped: boolean;
  error: boolean;
  body: Uint8Array;
}

export function encodeMessage(type: number, id: number, route: number | string | null, body: Uint8Array): Uint8Array {
  const coded = typeof route === "number";
  const out = [(type << 1) | (coded ? 1 : 0)];
  if (type === REQUEST || type === RESPONSE) putVarint(out, id);
  if (type === RESPONSE || route === null) return join(out, body);
  if (coded) return join(out, [route >> 8, route & 255], body);
  const name = utf8(route);
  if (name.length > 255) throw new Error(`a route has 255 bytes at most, this one has ${name.length}: ${route.slice(0, 40)}`);
  return join(out, [name.length], name, body);
}

export function decodeMessage(bytes: Uint8Array): Message {
  const reader = new Reader(bytes);
  const flag = reader.byte();
  const type = (flag >> 1) & 7;
  if (type > PUSH) throw new Error(`${type} is no type of a message`);
  const id = type === REQUEST || type === RESPONSE ? reader.varint() : 0;
  let route: number | string | null = null;
  if (type !== RESPONSE) route = flag & 1 ? (reader.byte() << 8) | reader.byte() : text(reader.take(reader.byte()));
  return { type, id, route, zipped: (flag & 16) > 0, error: (flag & 32) > 0, body: reader.take(reader.left) };
}
