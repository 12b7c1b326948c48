// Bytes of texts and numbers. Mini programs have no TextEncoder, so there is one here.

const SHORT = "the bytes end too early";

export function utf8(text: string): Uint8Array {
  const out: number[] = [];
  for (const char of text) {
    let code = char.codePointAt(0)!;
    // A lone half of a pair is no character.
    if (code >= 0xd800 && code < 0xe000) code = 0xfffd;
    if (code < 0x80) out.push(code);
    else if (code < 0x800) out.push(0xc0 | (code >> 6), 0x80 | (code & 63));
    else if (code < 0x10000) out.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
    else out.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
  }
  return Uint8Array.from(out);
}

/** Reads UTF-8. What is not UTF-8 becomes U+FFFD; nothing throws. */
export function text(bytes: Uint8Array): string {
  let out = "";
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++]!;
    let more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : -1;
    let code = more < 0 ? 0xfffd : more === 0 ? first : first & (63 >> more);
    const length = more;
    for (; more > 0; more--) {
      const next = bytes[at];
      if (next === undefined || (next & 0xc0) !== 0x80) break;
      code = (code << 6) | (next & 63);
      at++;
    }
    const bad = more > 0 || code > 0x10ffff || (length === 2 && code < 0x800) || (length === 3 && code < 0x10000) || (code >= 0xd800 && code < 0xe000);
    out += String.fromCodePoint(bad ? 0xfffd : code);
  }
  return out;
}

/** Appends base 128, least significant group first. */
export function putVarint(out: number[], value: number): void {
  for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) + 128);
  out.push(value);
}

export class Reader {
  at = 0;
  constructor(readonly bytes: Uint8Array) {}

  get left(): number {
    return this.bytes.length - this.at;
  }

  byte(): number {
    if (this.left < 1) throw new Error(SHORT);
    return this.bytes[this.at++]!;
  }

  varint(): number {
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

  take(length: number): Uint8Array {
    if (length > this.left) throw new Error(SHORT);
    return this.bytes.subarray(this.at, (this.at += length));
  }
}

export function join(...parts: (Uint8Array | number[])[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
