// Inflate (RFC 1951) behind the heads of zlib and gzip: Pitaya servers compress. It is synchronous, which DecompressionStream is not:
// messages stay in order.

import { Reader } from "./bytes.js";

const BROKEN = "compressed bytes are broken";
const LENGTHS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

interface Codes {
  counts: number[];
  symbols: number[];
}

function codes(lengths: number[]): Codes {
  const counts: number[] = Array(16).fill(0);
  for (const length of lengths) counts[length]!++;
  counts[0] = 0;
  const symbols: number[] = [];
  for (let length = 1; length < 16; length++) lengths.forEach((of, symbol) => of === length && symbols.push(symbol));
  return { counts, symbols };
}

/** Whether bytes look like a stream of zlib or gzip. */
export const isZipped = (bytes: Uint8Array): boolean =>
  bytes.length > 2 && ((bytes[0] === 0x78 && [0x01, 0x5e, 0x9c, 0xda].includes(bytes[1]!)) || (bytes[0] === 0x1f && bytes[1] === 0x8b));

/** Inflates a stream of zlib or gzip. Throws when it is broken or gives more than `limit` bytes. */
export function inflate(input: Uint8Array, limit: number): Uint8Array {
  const reader = new Reader(input);
  const first = reader.byte();
  const second = reader.byte();
  if (first === 0x1f && second === 0x8b) gzipHead(reader);
  else if ((first & 15) !== 8 || (first * 256 + second) % 31 || second & 32) throw new Error(BROKEN);

  let out = new Uint8Array(Math.min(limit, Math.max(1024, input.length * 4)));
  let size = 0;
  let held = 0;
  let count = 0;

  const bits = (want: number): number => {
    for (; count < want; count += 8) held |= reader.byte() << count;
    const value = held & ((1 << want) - 1);
    held >>>= want;
    count -= want;
    return value;
  };
  const room = (more: number) => {
    if (size + more > limit) throw new Error(`compressed bytes give more than ${limit}`);
    if (size + more <= out.length) return;
    const grown = new Uint8Array(Math.min(limit, Math.max(size + more, out.length * 2)));
    grown.set(out);
    out = grown;
  };
  const symbol = ({ counts, symbols }: Codes): number => {
    let code = 0;
    let start = 0;
    let index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      const here = counts[length]!;
      if (code - here < start) return symbols[index + code - start]!;
      index += here;
      start = (start + here) << 1;
      code <<= 1;
    }
    throw new Error(BROKEN);
  };
  const lists = (): [Codes, Codes] => {
    const literals = bits(5) + 257;
    const distances = bits(5) + 1;
    const short: number[] = Array(19).fill(0);
    for (let i = 0, n = bits(4) + 4; i < n; i++) short[ORDER[i]!] = bits(3);
    const table = codes(short);
    const lengths: number[] = [];
    while (lengths.length < literals + distances) {
      const found = symbol(table);
      if (found < 16) lengths.push(found);
      else {
        const repeated = found === 16 ? lengths[lengths.length - 1] : 0;
        if (repeated === undefined) throw new Error(BROKEN);
        const times = found === 16 ? 3 + bits(2) : found === 17 ? 3 + bits(3) : 11 + bits(7);
        for (let i = 0; i < times; i++) lengths.push(repeated);
      }
    }
    if (lengths.length > literals + distances) throw new Error(BROKEN);
    return [codes(lengths.slice(0, literals)), codes(lengths.slice(literals))];
  };
  const fixed = (): [Codes, Codes] => [
    codes(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8))),
    codes(Array(30).fill(5)),
  ];

  for (let last = 0; !last; ) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      held = count = 0;
      const length = reader.byte() | (reader.byte() << 8);
      if (length !== (~(reader.byte() | (reader.byte() << 8)) & 0xffff)) throw new Error(BROKEN);
      room(length);
      out.set(reader.take(length), size);
      size += length;
      continue;
    }
    if (kind === 3) throw new Error(BROKEN);
    const [literal, distance] = kind === 1 ? fixed() : lists();
    for (;;) {
      const found = symbol(literal);
      if (found === 256) break;
      if (found < 256) {
        room(1);
        out[size++] = found;
        continue;
      }
      const base = LENGTHS[found - 257];
      if (base === undefined) throw new Error(BROKEN);
      const length = base + bits(LENGTH_BITS[found - 257]!);
      const far = symbol(distance);
      if (!(far < 30)) throw new Error(BROKEN);
      const extra = far < 2 ? 0 : (far >> 1) - 1;
      const back = (far < 2 ? far : (2 + (far & 1)) << extra) + 1 + bits(extra);
      if (back > size) throw new Error(BROKEN);
      room(length);
      for (let i = 0; i < length; i++, size++) out[size] = out[size - back]!;
    }
  }
  return out.subarray(0, size);
}

function gzipHead(reader: Reader): void {
  if (reader.byte() !== 8) throw new Error(BROKEN);
  const flags = reader.byte();
  reader.take(6);
  if (flags & 4) reader.take(reader.byte() | (reader.byte() << 8));
  for (const flag of [8, 16]) if (flags & flag) while (reader.byte());
  if (flags & 2) reader.take(2);
}
