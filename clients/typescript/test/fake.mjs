// Connections in memory, and a naive server that keeps sessions: what resume.md promises, written as simply as it can be.
import { parts } from "./parts.mjs";

const { Packages, Reader, decodeMessage, encodePackage, putVarint, utf8, text } = parts;

/** Transports that the test plays by hand: `made` has them in order. */
export function byHand() {
  const made = [];
  const transport = (url) => {
    const one = { url, sent: [], closed: null };
    const reader = new Packages();
    made.push(one);
    one.packages = () => one.sent.splice(0);
    one.answer = (sys, code = 200) => {
      one.events.opened();
      one.sent = [];
      one.data(1, utf8(JSON.stringify({ code, sys })));
    };
    one.data = (kind, body) => one.events.data(encodePackage(kind, body));
    one.push = (route, body) => one.data(4, Uint8Array.from([6, route.length, ...utf8(route), ...utf8(JSON.stringify(body))]));
    one.response = (id, body) => one.data(4, Uint8Array.from([4, id, ...utf8(JSON.stringify(body))]));
    return {
      open: (events) => (one.events = events),
      send(bytes) {
        reader.push(bytes);
        for (let found; (found = reader.next()); ) one.sent.push(found);
      },
      close: (goodbye) => (one.closed = goodbye ? "goodbye" : "cut"),
    };
  };
  return { transport, made, last: () => made[made.length - 1] };
}

/**
 * A server with resume, and a wire that delivers byte by byte and may be cut between any two of them. Nothing runs by itself: the test decides
 * how many bytes of which direction move next.
 */
export class World {
  sessions = new Map();
  wires = [];
  tokens = 0;

  constructor({ ack = 4 } = {}) {
    this.ack = ack;
  }

  transport = () => {
    const wire = { up: [], down: [], open: true, told: false, reader: new Packages(), session: null, state: "init" };
    this.wires.push(wire);
    return {
      open: (events) => (wire.events = events),
      send: (bytes) => wire.open && wire.up.push(...bytes),
      close: (goodbye) => {
        // What was sent before is still on its way.
        wire.clientGone = true;
        if (goodbye) wire.goodbye = true;
        else wire.open = false;
      },
    };
  };

  /** The connection breaks: what is on its way is lost. */
  cut(wire) {
    if (!wire.open) return;
    wire.open = false;
    wire.up = [];
    wire.down = [];
  }

  send(wire, kind, body = []) {
    if (wire.open) wire.down.push(...encodePackage(kind, body));
  }

  /** Moves bytes to the server. */
  toServer(wire, count) {
    if (!wire.up.length || !wire.open) return;
    wire.reader.push(Uint8Array.from(wire.up.splice(0, count)));
    for (let found; (found = wire.reader.next()); ) this.#package(wire, found);
  }

  /** Moves bytes to the client, or tells it that the connection is gone. */
  toClient(wire, count) {
    if (wire.clientGone) return;
    if (!wire.opened && wire.open) {
      wire.opened = true;
      return wire.events.opened();
    }
    if (wire.down.length) wire.events.data(Uint8Array.from(wire.down.splice(0, count)));
    else if (!wire.open && !wire.told) {
      wire.told = true;
      wire.events.ended("cut");
    }
  }

  #package(wire, { kind, body }) {
    if (kind === 1) return this.#handshake(wire, JSON.parse(text(body)));
    if (kind === 2) return this.#begin(wire);
    const session = wire.session;
    if (!session || session.wire !== wire) return;
    if (kind === 3 && body.length) {
      const upTo = new Reader(body).varint();
      if (upTo < session.acked || upTo > session.sent) throw new Error(`the client acknowledges ${upTo}: ${session.acked}..${session.sent}`);
      session.acked = upTo;
      this.#release(session, upTo);
    } else if (kind === 4) {
      session.received++;
      this.#run(session, decodeMessage(body));
      if (session.received - session.told >= this.ack) {
        session.told = session.received;
        const bytes = [];
        putVarint(bytes, session.received);
        this.send(wire, 3, bytes);
      }
    }
  }

  #handshake(wire, { sys: { resume } }) {
    const found = resume.token && [...this.sessions.values()].find((one) => one.tokens.has(resume.token));
    const token = `t${++this.tokens}`;
    wire.state = "wait";
    wire.token = token;
    let answer = { v: 1, token, window: 60, ack: this.ack };
    if (found) {
      const { session, received, sent } = { session: found, ...resume };
      if (received < session.acked || received > session.sent) throw new Error(`the client says it received ${received}: ${session.acked}..${session.sent}`);
      if (sent < session.received) throw new Error(`the client says it sent ${sent}, ${session.received} came`);
      for (const old of [session.wire, session.early]) if (old) old.orphan = true;
      session.wire = session.early = null;
      session.tokens.add(token);
      wire.session = session;
      wire.position = Math.max(received, session.base);
      const missed = wire.position - received;
      answer = { ...answer, resumed: true, received: session.received, position: wire.position, missed };
    } else {
      const session = { tokens: new Set([token]), sent: 0, acked: 0, received: 0, told: 0, kept: [], base: 0, ran: [], wire: null };
      this.sessions.set(token, session);
      wire.session = session;
      wire.fresh = true;
      if (resume.token) answer = { ...answer, resumed: false, why: "unknown" };
    }
    this.send(wire, 1, utf8(JSON.stringify({ code: 200, sys: { resume: answer } })));
    // Every other time, as a server that knows the word, and one that does not.
    if (found && resume.early && this.tokens % 2) {
      wire.session.early = wire;
      for (const body of found.kept.slice(wire.position - found.base)) this.send(wire, 4, body);
    }
  }

  #begin(wire) {
    const { session } = wire;
    if (wire.state !== "wait" || wire.orphan) return;
    wire.state = "working";
    if (session.wire && session.wire !== wire) session.wire.orphan = true;
    session.wire = wire;
    session.tokens = new Set([wire.token]);
    session.told = session.received;
    // A gap may have grown since the answer was written; a real server must not let it: it keeps what the answer promised.
    if (!wire.fresh) {
      session.acked = wire.position;
      this.#release(session, wire.position);
    }
    if (session.early !== wire) for (const body of session.kept) this.send(wire, 4, body);
    session.early = null;
  }

  #run(session, message) {
    session.ran.push(JSON.parse(text(message.body)).n);
    if (message.type === 0) {
      const head = [4];
      putVarint(head, message.id);
      this.data(session, Uint8Array.from([...head, ...utf8(JSON.stringify({ n: session.ran[session.ran.length - 1] }))]));
    }
  }

  /** DATA for the session, whether or not it has a connection. */
  data(session, body) {
    session.sent++;
    session.kept.push(body);
    const wire = session.wire ?? session.early;
    if (wire) this.send(wire, 4, body);
  }

  push(session, n) {
    this.data(session, Uint8Array.from([6, 3, ...utf8("onN"), ...utf8(JSON.stringify({ n }))]));
  }

  /** `kept` begins after `base`. */
  #release(session, upTo) {
    session.kept.splice(0, Math.max(0, upTo - session.base));
    session.base = Math.max(session.base, upTo);
  }

  /** The oldest that is kept does not fit any more. */
  forget(session, count) {
    session.base += session.kept.splice(0, count).length;
  }
}
