export { Client, connect } from "./client.js";
export { webSocket } from "./transport.js";
export type { Transport, TransportEvents, TransportFactory, WebSocketLike } from "./transport.js";
export { ClientError } from "./types.js";
export type {
  AnyRoutes,
  ClientEvents,
  ClientOptions,
  CloseReason,
  Codec,
  ErrorCode,
  ReconnectOptions,
  RequestOptions,
  Routes,
  Signal,
  State,
} from "./types.js";
