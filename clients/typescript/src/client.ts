import { text, utf8 } from "./bytes.js";
import { Bodies } from "./bodies.js";
import { asError, Emitter, Queue } from "./emitter.js";
import { inflate, isZipped } from "./inflate.js";
import { Ledger, readGrant, type Grant } from "./resume.js";
import { webSocket, type Transport } from "./transport.js";
import { ClientError } from "./types.js";
import type { Answer, AnyRoutes, ClientEvents, ClientOptions, CloseReason, ErrorCode, Name, Notifies, Pushes, PushOf, RequestArgs, RequestOptions, Requests, State } from "./types.js";
import * as wire from "./wire.js";

const VERSION = "0.1.0";
const EVENTS = ["open", "suspended", "resumed", "restarted", "kicked", "closed", "error"];
/** A connection that lived so long was a good one: the next attempt begins with the shortest wait. */
const STABLE = 5000;
const ALL = "*";

type Timer = ReturnType<typeof setTimeout> | undefined;

interface Waiting {
  route: string;
  settle(error: ClientError | null, answer?: any): void;
}

/** One connection. What an earlier one still tells is not listened to. */
interface Link {
  transport: Transport;
  packages: wire.Packages;
  working: boolean;
  /** Whether its handshake presented a token. */
  resuming: boolean;
  since: number;
}

/** Connects to `url`; rejects with a `ClientError` if the server cannot be reached or refuses. */
export function connect<R extends object = AnyRoutes>(url: string, options?: ClientOptions): Promise<Client<R>> {
  return new Client<R>(url, options).connect();
}

/** A session with a server, whatever becomes of its sockets. */
export class Client<R extends object = AnyRoutes> {
  private _now: State = "idle";
  private _link: Link | null = null;
  private _ledger: Ledger | null = null;
  private _bodies: Bodies;
  private _nextId = 1;
  private _waiting = new Map<number, Waiting>();
  private _first: { resolve: (client: any) => void; reject: (error: ClientError) => void } | null = null;
  private _events: Emitter;
  private _pushed: Emitter;
  private _queues = new Set<Queue<any>>();
  private _roomy: (() => void)[] = [];

  private _interval = 0;
  private _heardAt = 0;
  private _attempts = 0;
  private _tries = 0;
  private _deadline: Timer;
  private _beat: Timer;
  private _dead: Timer;
  private _retryTimer: Timer;

  constructor(
    readonly url: string,
    private _options: ClientOptions = {},
  ) {
    const failed = (error: Error, name: string) => this._problem(error, name);
    this._events = new Emitter(failed);
    this._pushed = new Emitter(failed);
    this._bodies = new Bodies(_options.dialect === "pitaya", _options.codec);
  }

  /** `idle` (never connected), `connecting`, `open`, `suspended` (lost, and coming back) or `closed`, which is final. */
  get state(): State {
    return this._now;
  }

  /** Whether the server keeps this session when the connection is lost. */
  get resumable(): boolean {
    return this._ledger !== null;
  }

  /** Connects, once. `connect()` of the module does it for you. */
  connect(): Promise<this> {
    if (this._now !== "idle") return Promise.reject(new ClientError("closed", "a client connects once; make another one"));
    this._now = "connecting";
    return new Promise((resolve, reject) => {
      this._first = { resolve, reject };
      this._attempt();
    });
  }

  /**
   * Sends a request. The promise is rejected with a `ClientError` at once if there is no session or no room, and otherwise by an answer, by the
   * time-out, by the signal, or by the end of the session. It never hangs.
   */
  request<K extends Name<Requests<R>>>(route: K, ...[body, options]: RequestArgs<Requests<R>[K]>): Promise<Answer<Requests<R>[K]>>;
  request(route: string, body?: any, { timeout, signal }: RequestOptions = {}): Promise<any> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) throw aborted(signal);
      if (this._waiting.size >= this._maxPending) throw new ClientError("full", `${this._waiting.size} requests wait for answers`);
      const id = this._nextId;
      this._write(wire.REQUEST, id, route, body);
      this._nextId = id === 0x7fffffff ? 1 : id + 1;
      const fail = (code: ErrorCode, message: string) => settle(new ClientError(code, `${route}: ${message}`));
      const wait = timeout ?? this._options.requestTimeout ?? 10_000;
      const timer = setTimeout(() => fail("timeout", `no answer within ${wait} ms`), wait);
      const onAbort = () => settle(aborted(signal!));
      const settle = (error: Error | null, answer?: any) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this._waiting.delete(id);
        this._makeRoom();
        error ? reject(error) : resolve(answer);
      };
      signal?.addEventListener("abort", onAbort);
      this._waiting.set(id, { route, settle });
    });
  }

  /** Sends a message that gets no answer. Throws a `ClientError` if there is no session or no room. */
  notify<K extends Name<Notifies<R>>>(route: K, body: Notifies<R>[K]): void {
    this._write(wire.NOTIFY, 0, route, body);
  }

  /** Resolves when there is room for another message; rejects when the client is closed. */
  ready(): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this._now === "closed") reject(new ClientError("closed", "the client is closed"));
        else if (this._hasRoom()) resolve();
        else this._roomy.push(look);
      };
      look();
    });
  }

  /** Listens to an event of the connection, or to pushes of a route. Gives a function that ends it. */
  on<E extends keyof ClientEvents>(event: E, listener: (value: ClientEvents[E]) => unknown): () => void;
  on<K extends Exclude<Name<Pushes<R>>, keyof ClientEvents>>(route: K, listener: (body: Pushes<R>[K]) => unknown): () => void;
  on(name: string, listener: (value: any) => unknown): () => void {
    this._tableOf(name).on(name, listener);
    return () => this.off(name as any, listener);
  }

  off(name: keyof ClientEvents | Name<Pushes<R>>, listener: (value: any) => unknown): void {
    this._tableOf(name).off(name, listener);
  }

  /** As `on`, for pushes whose route has the name of an event, such as `closed`; `*` hears all pushes as `{ route, body }`. */
  onPush(route: string, listener: (value: any) => unknown): () => void {
    this._pushed.on(route, listener);
    return () => this._pushed.off(route, listener);
  }

  /** `for await (const { route, body } of client)`: all pushes from now on, until the client closes. */
  [Symbol.asyncIterator](): AsyncIterableIterator<PushOf<R>> {
    const queue: Queue<any> = new Queue(() => {
      stop();
      this._queues.delete(queue);
    });
    const stop = this.onPush(ALL, (push) => queue.push(push));
    if (this._now === "closed") queue.end();
    else this._queues.add(queue);
    return queue;
  }

  /** Ends the session: the server is told, nothing is kept, requests that wait are rejected. */
  close(): void {
    this._finish("closed", "close() was called", true);
  }

  /** Cuts the connection as a bad network would. The client comes back by itself. For tests and demonstrations. */
  interrupt(): void {
    if (this._link) this._lost(this._link, "interrupted");
  }

  /** A client that waits before its next attempt makes it now, for example because the network is back. */
  retry(): void {
    if (this._now === "suspended" && !this._link) this._attempt();
  }

  private get _maxPending(): number {
    return this._options.maxPending ?? 256;
  }

  private _tableOf(name: string): Emitter {
    return EVENTS.includes(name) ? this._events : this._pushed;
  }

  /** An error that is nobody's answer. One of a listener of errors is only logged. */
  private _problem(error: Error, name = ""): void {
    if (name !== "error" && this._events.has("error")) this._events.emit("error", error);
    else console.error("shaddock-client:", error);
  }

  // ---- connecting

  private _attempt(): void {
    clearTimeout(this._retryTimer);
    // Where the session is, in turn with where everybody connects.
    const home = this._ledger?.grant.address;
    const url = home && this._tries++ % 2 === 0 ? home : this.url;
    const link: Link = {
      transport: (this._options.transport ?? webSocket())(url),
      packages: new wire.Packages(),
      working: false,
      resuming: false,
      since: 0,
    };
    this._link = link;
    const wait = this._options.connectTimeout ?? 8000;
    this._deadline = setTimeout(() => this._lost(link, `no handshake within ${wait} ms`), wait);
    const mine = () => this._link === link;
    try {
      link.transport.open({
        opened: () => mine() && this._shake(link),
        data: (bytes) => mine() && this._data(link, bytes),
        ended: (why) => mine() && this._lost(link, why ?? "the connection ended"),
      });
    } catch (error) {
      this._lost(link, asError(error).message);
    }
  }

  private _shake(link: Link): void {
    const { dialect, user, sys, resume } = this._options;
    const who =
      dialect === "pitaya"
        ? { platform: "js", libVersion: VERSION, clientBuildNumber: "1", clientVersion: "1" }
        : { type: "shaddock-ts", version: VERSION, rsa: {} };
    link.resuming = this._ledger !== null;
    const asked = resume === false ? undefined : (this._ledger?.request() ?? { v: 1 });
    const given = typeof user === "function" ? user() : user;
    this._send(link, wire.HANDSHAKE, utf8(JSON.stringify({ sys: { ...who, ...sys, resume: asked }, user: given })));
  }

  private _shaken(link: Link, body: Uint8Array): void {
    const answer = JSON.parse(text(isZipped(body) ? inflate(body, wire.MAX_BODY) : body));
    const code = answer?.code;
    if (code !== 200) {
      // 501: this client is too old. Other 5xx may pass.
      if (this._first || !(code >= 500) || code === 501) return this._finish("refused", `the server refused the handshake: code ${code}`, false, code);
      return this._lost(link, `the server refused the handshake: code ${code}`);
    }
    clearTimeout(this._deadline);
    const sys = answer.sys ?? {};
    const grant = this._options.resume === false ? null : readGrant(sys.resume);
    this._interval = sys.heartbeat > 0 ? sys.heartbeat * 1000 : 0;
    link.working = true;
    link.since = this._heardAt = Date.now();
    if (link.resuming && grant?.resumed) this._resumed(link, grant);
    else this._begun(link, sys, grant);
  }

  /** A new session: the first one, or one in place of a session that is gone. */
  private _begun(link: Link, sys: any, grant: Grant | null): void {
    const lost = this._ledger?.pending ?? 0;
    const why = link.resuming ? grant?.why || "unsupported" : "not kept";
    this._bodies.begin(sys);
    this._ledger = grant && new Ledger(grant);
    this._tries = 0;
    this._rejectAll("lost", `the session ended (${why})`);
    this._working(link);
    const { _first: first } = this;
    this._first = null;
    this._events.emit(first ? "open" : "restarted", first ? undefined : { why, lost });
    first?.resolve(this);
    this._makeRoom();
  }

  private _resumed(link: Link, grant: Grant): void {
    this._ledger!.resume(grant);
    this._tries = 0;
    this._attempts = 0;
    this._working(link);
    for (const bytes of this._ledger!.unacknowledged()) this._send(link, wire.DATA, bytes);
    this._events.emit("resumed", { missed: grant.missed });
    this._makeRoom();
  }

  private _working(link: Link): void {
    this._now = "open";
    this._send(link, wire.ACK);
    if (!this._interval) return;
    this._watch(link, 2 * this._interval);
    if (this._bodies.pitaya) this._beatLater(link);
  }

  // ---- what comes

  private _data(link: Link, bytes: Uint8Array): void {
    this._heardAt = Date.now();
    try {
      link.packages.push(bytes);
      // What a listener did may have ended this connection: what comes behind was not taken, and comes again.
      while (this._link === link) {
        const found = link.packages.next();
        if (!found) break;
        this._package(link, found);
      }
    } catch (error) {
      this._finish("protocol", asError(error).message);
    }
  }

  private _package(link: Link, { kind, body }: wire.Package): void {
    if (kind === wire.KICK) return this._kicked(link, body);
    if (!link.working) {
      if (kind === wire.HANDSHAKE) this._shaken(link, body);
    } else if (kind === wire.HEARTBEAT) {
      this._ledger?.heartbeat(body);
      this._makeRoom();
      if (!this._bodies.pitaya) this._beatLater(link);
    } else if (kind === wire.DATA) {
      if (this._ledger) this._ledger.received++;
      this._message(wire.decodeMessage(body));
      // The listener may have ended this connection.
      if (this._link === link && this._ledger?.owes()) this._acknowledge(link);
    }
  }

  private _message(message: wire.Message): void {
    if (message.type === wire.RESPONSE) {
      const call = this._waiting.get(message.id);
      if (!call) return;
      try {
        const answer = this._bodies.read(call.route, message);
        if (!message.error || !this._bodies.pitaya) return call.settle(null, answer);
        call.settle(new ClientError("answer", `${call.route}: ${answer?.code ?? "error"} ${answer?.msg ?? ""}`, answer));
      } catch (error) {
        call.settle(new ClientError("decode", `${call.route}: the answer cannot be read: ${asError(error).message}`));
      }
    } else if (message.type === wire.PUSH) {
      let push;
      try {
        const route = this._bodies.routeOf(message.route!);
        push = { route, body: this._bodies.read(route, message) };
      } catch (error) {
        return this._problem(new ClientError("decode", `a push (${message.route}) cannot be read: ${asError(error).message}`));
      }
      if (push.route !== ALL) this._pushed.emit(push.route, push.body);
      this._pushed.emit(ALL, push);
    }
  }

  private _kicked(link: Link, body: Uint8Array): void {
    let reason = "";
    try {
      reason = String(JSON.parse(text(body)).reason ?? "");
    } catch {
      // Pitaya and nano send no reason.
    }
    // A kick ends the session, so nothing is left to come back to.
    const again = !this._first && this._options.reconnect !== false && this._options.reconnectAfterKick?.(reason);
    if (again) {
      this._ledger = null;
      this._lost(link, `kicked: ${reason}`);
      this._events.emit("kicked", reason);
      return;
    }
    this._drop();
    this._events.emit("kicked", reason);
    this._finish("kicked", `the server kicked this client: ${reason || "no reason given"}`, false, reason);
  }

  // ---- heartbeats

  /** One is pending at most. */
  private _beatLater(link: Link): void {
    if (this._beat || !this._interval) return;
    this._beat = setTimeout(() => {
      this._beat = undefined;
      this._acknowledge(link);
      if (this._bodies.pitaya) this._beatLater(link);
    }, this._interval);
  }

  /** A HEARTBEAT, which says what was received. */
  private _acknowledge(link: Link): void {
    this._send(link, wire.HEARTBEAT, this._ledger?.acknowledge());
  }

  /** One timer watches, whatever the traffic: it looks when the last package came. */
  private _watch(link: Link, after: number): void {
    this._dead = setTimeout(() => {
      const left = 2 * this._interval - (Date.now() - this._heardAt);
      if (left > 0) this._watch(link, left);
      else this._lost(link, `nothing came for ${(2 * this._interval) / 1000} s`);
    }, after);
  }

  // ---- what goes

  private _hasRoom(): boolean {
    return this._waiting.size < this._maxPending && (!this._ledger || this._ledger.pending < this._maxPending);
  }

  private _makeRoom(): void {
    if (this._roomy.length && (this._now === "closed" || this._hasRoom())) for (const look of this._roomy.splice(0)) look();
  }

  private _write(type: number, id: number, route: string, body: any): void {
    const { _now: now, _ledger: ledger, _link: link } = this;
    if (now === "closed" || now === "idle") throw new ClientError("closed", `${route}: the client is ${now === "idle" ? "not connected" : "closed"}`);
    if (now !== "open" && !ledger) throw new ClientError("offline", `${route}: there is no session now`);
    if (ledger && ledger.pending >= this._maxPending) throw new ClientError("full", `${route}: ${ledger.pending} messages are not acknowledged`);
    let bytes;
    try {
      bytes = wire.encodeMessage(type, id, this._bodies.codeOf(route), this._bodies.write(route, body));
      if (bytes.length > wire.MAX_BODY) throw new Error(`${bytes.length} bytes are too many`);
    } catch (error) {
      throw new ClientError("encode", `${route}: ${asError(error).message}`);
    }
    ledger?.keep(bytes);
    if (now === "open") this._send(link!, wire.DATA, bytes);
  }

  private _send(link: Link, kind: number, body?: Uint8Array | number[]): void {
    link.transport.send(wire.encodePackage(kind, body));
  }

  // ---- ends

  /** Lets go of the connection. */
  private _drop(goodbye = false): void {
    for (const timer of [this._deadline, this._beat, this._dead, this._retryTimer]) clearTimeout(timer);
    this._beat = undefined;
    const { _link: link } = this;
    this._link = null;
    if (!link) return;
    try {
      if (goodbye && this._ledger && link.working) this._send(link, wire.KICK);
      link.transport.close(goodbye);
    } catch (error) {
      this._problem(asError(error));
    }
  }

  private _lost(link: Link, why: string): void {
    if (this._link !== link) return;
    this._drop();
    if (this._first) return this._finish("unreachable", why);
    if (this._options.reconnect === false) return this._finish("lost", why);
    const { min = 250, max = 10_000, attempts = 30 } = this._options.reconnect ?? {};
    if (link.working) {
      if (Date.now() - link.since >= STABLE) this._attempts = 0;
    } else if (this._attempts >= attempts) {
      return this._finish("unreachable", why);
    }
    const wait = Math.min(max, min * 2 ** this._attempts++) * (1 - Math.random() / 2);
    this._retryTimer = setTimeout(() => this._attempt(), wait);
    const wasOpen = this._now === "open";
    this._now = "suspended";
    if (!wasOpen) return;
    if (!this._ledger) this._rejectAll("lost", `the connection was lost: ${why}`);
    this._events.emit("suspended", { why, resumable: this.resumable });
  }

  private _finish(reason: CloseReason, why: string, goodbye = false, detail?: any): void {
    if (this._now === "closed") return;
    this._now = "closed";
    this._drop(goodbye);
    this._ledger = null;
    const code = reason === "refused" || reason === "unreachable" || reason === "protocol" ? reason : "closed";
    this._first?.reject(new ClientError(code, why, detail));
    this._first = null;
    this._rejectAll("closed", why);
    this._makeRoom();
    this._events.emit("closed", reason);
    for (const queue of this._queues) queue.end();
  }

  private _rejectAll(code: ErrorCode, why: string): void {
    for (const { route, settle } of [...this._waiting.values()]) settle(new ClientError(code, `${route}: ${why}`));
  }
}

const aborted = (signal: { reason?: any }) => new ClientError("aborted", "the request was aborted", signal.reason);
