/** What a transport tells the client. After `ended` it tells nothing more. */
export interface TransportEvents {
  opened(): void;
  /** Bytes that came, cut anywhere. They belong to the client from here on. */
  data(bytes: Uint8Array): void;
  ended(why?: string): void;
}

/** One connection. WebSocket and Node's TCP are here; for mini programs and game engines write one, the README has an example. */
export interface Transport {
  /** Starts to connect. Called once, before all else. */
  open(events: TransportEvents): void;
  /** Sends one package. For a WebSocket: one binary message. */
  send(bytes: Uint8Array): void;
  /**
   * Ends the connection. `goodbye`: the session is to end (WebSocket status 1000). Otherwise the connection only is cut: no status 1000, or a
   * server that offers resume would take it for a goodbye.
   */
  close(goodbye: boolean): void;
}

/** Makes the transport of one attempt to connect. */
export type TransportFactory = (url: string) => Transport;

/** The part of a WebSocket that is used. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: any): void;
  close(code?: number): void;
}

/** WebSockets; on Node before 22 pass the class of the package `ws`. */
export function webSocket(Class?: new (url: string) => WebSocketLike): TransportFactory {
  return (url) => {
    let socket: WebSocketLike;
    return {
      open(events) {
        const Found = Class ?? (globalThis as any).WebSocket;
        if (!Found) throw new Error("there is no WebSocket here: pass one, as in connect(url, { transport: webSocket(WebSocket) })");
        socket = new Found(url) as WebSocketLike;
        socket.binaryType = "arraybuffer";
        socket.onopen = () => events.opened();
        socket.onmessage = ({ data }) => {
          if (typeof data !== "string") events.data(new Uint8Array(data));
        };
        socket.onerror = () => {};
        socket.onclose = ({ code }) => events.ended(`the WebSocket closed with status ${code}`);
      },
      send(bytes) {
        if (socket.readyState === 1) socket.send(bytes);
      },
      close(goodbye) {
        if (!socket) return;
        socket.onopen = socket.onmessage = socket.onclose = null;
        // 4000: an end that is not a goodbye.
        socket.close(goodbye ? 1000 : 4000);
      },
    };
  };
}
