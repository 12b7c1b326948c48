// What is between a body's value and its bytes: dictionary, schemas, JSON, compression.

import { text, utf8 } from "./bytes.js";
import { inflate } from "./inflate.js";
import { decode, encode, type Schemas } from "./protobuf.js";
import type { Codec } from "./types.js";
import { MAX_BODY, type Message } from "./wire.js";

export class Bodies {
  private _codes = new Map<string, number>();
  private _routes = new Map<number, string>();
  private _client: Schemas = {};
  private _server: Schemas = {};
  /** The server's serializer is Google protobuf: bodies are bytes. */
  private _raw = false;

  constructor(
    readonly pitaya: boolean,
    private _codec?: Codec,
  ) {}

  /** What a new session says in its handshake. One that goes on keeps what it began with. */
  begin(sys: any): void {
    this._codes = new Map(Object.entries<number>(sys.dict ?? {}));
    this._routes = new Map();
    for (const [route, code] of this._codes) this._routes.set(code, route);
    // A code may have had another route: the list of codes has them all.
    for (const [code, route] of Object.entries<string>(sys.codeToRoute ?? {})) this._routes.set(Number(code), route);
    this._client = sys.protos?.client ?? {};
    this._server = sys.protos?.server ?? {};
    this._raw = sys.serializer === "protobuf";
  }

  codeOf(route: string): string | number {
    return this._codes.get(route) ?? route;
  }

  routeOf(route: string | number): string {
    if (typeof route === "string") return route;
    const found = this._routes.get(route);
    if (found === undefined) throw new Error(`the dictionary has no code ${route}`);
    return found;
  }

  write(route: string, body: any): Uint8Array {
    const own = this._codec?.encode(route, body);
    if (own) return own;
    if (body instanceof Uint8Array) return body;
    if (this._raw) throw new Error("this server wants bodies as bytes (Uint8Array): its serializer is protobuf");
    const schema = schemaOf(this._client, route);
    if (schema) return encode(schema, this._client, body ?? {});
    const json = JSON.stringify(body ?? {});
    if (json === undefined) throw new Error("the body is not JSON value");
    return utf8(json);
  }

  read(route: string, { body, zipped, error }: Message): any {
    const bytes = zipped && this.pitaya ? inflate(body, MAX_BODY) : body;
    if (this._codec) {
      const own = this._codec.decode(route, bytes);
      if (own !== null) return own;
    }
    if (this._raw) return bytes;
    const schema = error && this.pitaya ? null : schemaOf(this._server, route);
    if (schema) return decode(schema, this._server, bytes);
    return bytes.length ? JSON.parse(text(bytes)) : {};
  }
}

const schemaOf = (schemas: Schemas, route: string) => (Object.prototype.hasOwnProperty.call(schemas, route) ? schemas[route] : null);
