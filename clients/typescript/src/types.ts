import type { TransportFactory } from "./transport.js";

/**
 * What a server understands: requests are functions from the body to the answer, notifies and pushes are bodies.
 *
 *     interface Game {
 *       requests: { "room.roomHandler.join": (body: { room: string }) => { users: string[] } };
 *       notifies: { "room.roomHandler.move": { x: number; y: number } };
 *       pushes: { onChat: { from: string; msg: string } };
 *     }
 */
export interface Routes {
  requests?: object;
  notifies?: object;
  pushes?: object;
}

/** Any route with any body: what a client without a route map has. */
export interface AnyRoutes {
  requests: { [route: string]: (body?: any) => any };
  notifies: { [route: string]: any };
  pushes: { [route: string]: any };
}

type Part<R, K extends keyof Routes> = R extends { [P in K]: infer T } ? T : {};
export type Requests<R> = Part<R, "requests">;
export type Notifies<R> = Part<R, "notifies">;
export type Pushes<R> = Part<R, "pushes">;
export type Name<T> = Extract<keyof T, string>;

type Call = (...args: any[]) => any;
export type Answer<F> = F extends Call ? Awaited<ReturnType<F>> : never;
/** The arguments after the route: a body that may be absent need not be passed. */
export type RequestArgs<F> = F extends Call
  ? Parameters<F> extends []
    ? [body?: {}, options?: RequestOptions]
    : undefined extends Parameters<F>[0]
      ? [body?: Parameters<F>[0], options?: RequestOptions]
      : [body: Parameters<F>[0], options?: RequestOptions]
  : never;

export type PushOf<R> = { [K in Name<Pushes<R>>]: { route: K; body: Pushes<R>[K] } }[Name<Pushes<R>>];

/** The part of an `AbortSignal` that is used; where there is none, nothing has to be passed. */
export interface Signal {
  readonly aborted: boolean;
  readonly reason?: any;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

export interface RequestOptions {
  /** Milliseconds until the promise is rejected with code `timeout`. */
  timeout?: number;
  /** Rejects the promise with code `aborted`. A message that is sent is not taken back. */
  signal?: Signal;
}

/** Events of the connection. Their names are never those of pushes: see `Client.onPush`. */
export interface ClientEvents {
  /** The first session is there. */
  open: void;
  /** The connection is lost. With `resumable` the server keeps the session for a while; otherwise it is gone. */
  suspended: { why: string; resumable: boolean };
  /** The same session goes on. `missed`: how many messages of the server did not fit what it keeps; 0 = nothing was missed. */
  resumed: { missed: number };
  /** A new session took the place of the old one: log in again. `lost`: how many of our messages may not have arrived. */
  restarted: { why: string; lost: number };
  /** The server ended the session. `closed` follows, unless `reconnectAfterKick` says otherwise. */
  kicked: string;
  /** The end: the client does nothing more. See `CloseReason`. */
  closed: CloseReason;
  /** A listener threw, or a body could not be read. The connection goes on. Without a listener it is logged. */
  error: Error;
}

/**
 * `closed`: `close()` was called. `kicked`: by the server. `refused`: the handshake. `lost`: the connection, and `reconnect` is off.
 * `unreachable`: all attempts to reconnect failed. `protocol`: the server broke the protocol.
 */
export type CloseReason = "closed" | "kicked" | "refused" | "lost" | "unreachable" | "protocol";

export type State = "idle" | "connecting" | "open" | "suspended" | "closed";

export interface ReconnectOptions {
  /** Milliseconds of the first wait; each further one doubles it. 250. Each is shortened by a random part of up to a half. */
  min?: number;
  /** Milliseconds of the longest wait. 10,000. */
  max?: number;
  /** Failed attempts in a row after which the client closes with `unreachable`. 30. */
  attempts?: number;
}

/** Bodies of your own form, for example Google protobuf of a Pitaya server. `null` leaves a body to the client. */
export interface Codec {
  encode(route: string, body: any): Uint8Array | null;
  /** For an answer, `route` is the request's. */
  decode(route: string, bytes: Uint8Array): any;
}

export interface ClientOptions {
  /** `pomelo` (the default, also of shaddock, Pinus and Cherry) or `pitaya`. */
  dialect?: "pomelo" | "pitaya";
  /** Goes to the server's handshake hook. A function is called for each attempt. */
  user?: unknown;
  /** Overwrites members of the handshake's `sys`, such as `type` and `version`. */
  sys?: { [key: string]: unknown };
  /** `webSocket()` is the default. */
  transport?: TransportFactory;
  codec?: Codec;
  /** Milliseconds for a connection and its handshake. 8,000. */
  connectTimeout?: number;
  /** Milliseconds for an answer. 10,000. */
  requestTimeout?: number;
  /** `false`: a lost connection ends the client. */
  reconnect?: false | ReconnectOptions;
  /** `false`: do not ask for a session that outlives its socket. */
  resume?: boolean;
  /** Reconnect, to a new session, after a kick for this reason? Never, by default. */
  reconnectAfterKick?: (reason: string) => boolean;
  /** Messages that wait for the server's acknowledgement, and requests that wait for an answer: at most so many of each. 256. */
  maxPending?: number;
}

export type ErrorCode =
  | "timeout"
  | "aborted"
  /** The client is closed, or was before the answer came. */
  | "closed"
  /** There is no session now; nothing was sent. */
  | "offline"
  /** The session ended before the answer came: whether the request ran is unknown. */
  | "lost"
  /** `maxPending` is reached: `await client.ready()` first. */
  | "full"
  | "refused"
  | "unreachable"
  /** The error answer of a Pitaya server; `body` has it. */
  | "answer"
  | "encode"
  | "decode"
  | "protocol";

export class ClientError extends Error {
  override name = "ClientError";
  constructor(
    readonly code: ErrorCode,
    message: string,
    /** The body of an error answer, or the code of a refused handshake. */
    readonly body?: any,
  ) {
    super(message);
  }
}
