// What lets a session outlive its socket: both ends count DATA packages, and the client keeps what the server has not acknowledged.
// No clock and no IO here.

import { putVarint, Reader } from "./bytes.js";

/** `sys.resume` of a handshake answer, checked. */
export interface Grant {
  token: string;
  /** Acknowledge after so many. */
  ack: number;
  address?: string;
  /** The same session goes on. */
  resumed: boolean;
  /** Of a session that goes on: what the server has received, where it counts from, and what it could not keep. */
  received: number;
  position: number;
  missed: number;
  why: string;
}

const count = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** Reads what the server granted; a grant that makes no sense is none, a resumption that makes no sense is an error. */
export function readGrant(value: any): Grant | null {
  if (!value || value.v !== 1 || typeof value.token !== "string" || !value.token || value.token.length > 128) return null;
  if (!count(value.ack) || value.ack < 1) return null;
  const resumed = value.resumed === true;
  if (resumed && !(count(value.received) && count(value.position) && count(value.missed ?? 0))) throw new Error("the answer to a resumption lacks its counts");
  const { token, ack, received = 0, position = 0, missed = 0, why = "" } = value;
  const address = typeof value.address === "string" && value.address ? value.address : undefined;
  return { token, ack, address, resumed, received, position, missed, why: String(why) };
}

export class Ledger {
  /** DATA packages since the session began. */
  sent = 0;
  received = 0;
  /** What the server has acknowledged, and what we have. */
  private _acked = 0;
  private _told = 0;
  private _kept: Uint8Array[] = [];

  constructor(public grant: Grant) {}

  get pending(): number {
    return this._kept.length;
  }

  /** What was sent and is not acknowledged, oldest first. */
  unacknowledged(): readonly Uint8Array[] {
    return this._kept;
  }

  keep(bytes: Uint8Array): void {
    this.sent++;
    this._kept.push(bytes);
  }

  /** The server's acknowledgement: the body of a HEARTBEAT. */
  heartbeat(body: Uint8Array): void {
    if (!body.length) return;
    const reader = new Reader(body);
    const upTo = reader.varint();
    if (reader.left) throw new Error("an acknowledgement has bytes behind its number");
    this._forget(upTo);
  }

  private _forget(upTo: number): void {
    if (upTo < this._acked || upTo > this.sent) throw new Error(`the server acknowledges ${upTo} messages of ${this.sent}, after ${this._acked}`);
    this._kept.splice(0, upTo - this._acked);
    this._acked = upTo;
  }

  /** Whether an acknowledgement is owed now. */
  owes(): boolean {
    return this.received - this._told >= this.grant.ack;
  }

  /** The body of our next HEARTBEAT. */
  acknowledge(): number[] {
    const body: number[] = [];
    if (this.received === this._told) return body;
    this._told = this.received;
    putVarint(body, this.received);
    return body;
  }

  /** What a new connection says of this session. Early: what the server sends again may come directly behind its answer. */
  request(): object {
    return { v: 1, token: this.grant.token, received: this.received, sent: this.sent, early: true };
  }

  /** The server goes on with the session. What follows `unacknowledged()` is to be sent again. */
  resume(grant: Grant): void {
    this._forget(grant.received);
    if (grant.position < this.received) throw new Error(`the server counts from ${grant.position}, but ${this.received} messages came`);
    this.received = this._told = grant.position;
    this.grant = { ...grant, address: grant.address ?? this.grant.address };
  }
}
