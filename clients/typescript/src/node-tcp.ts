import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions } from "node:tls";
import type { TransportFactory } from "./transport.js";

/** TCP for Node: `tcp://host:port`, or `tls://host:port` with options of `tls.connect`. */
export function nodeTcp(options: ConnectionOptions = {}): TransportFactory {
  return (url) => {
    let socket: Socket | undefined;
    let listening = true;
    return {
      open(events) {
        const { protocol, hostname, port } = new URL(url);
        if ((protocol !== "tcp:" && protocol !== "tls:") || !port) throw new Error(`${url} must be tcp://host:port or tls://host:port`);
        const host = hostname.replace(/^\[|\]$/g, "");
        const tls = protocol === "tls:";
        let why = "the TCP connection ended";
        socket = tls
          ? connectTls({ servername: host, ...options, host, port: Number(port) })
          : connectTcp({ host, port: Number(port) });
        socket.setNoDelay(true);
        socket.on(tls ? "secureConnect" : "connect", () => listening && events.opened());
        socket.on("data", (chunk: Uint8Array) => listening && events.data(chunk));
        socket.on("error", (error: Error) => (why = error.message));
        socket.on("close", () => listening && events.ended(why));
      },
      send(bytes) {
        if (socket?.writable) socket.write(bytes);
      },
      close(goodbye) {
        listening = false;
        if (!socket) return;
        // What was written last, the goodbye too, is to arrive; a server that does not close its side must not keep ours.
        if (goodbye) socket.end(() => socket!.destroy());
        else socket.destroy();
      },
    };
  };
}
