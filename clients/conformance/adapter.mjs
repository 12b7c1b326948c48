// What makes our TypeScript client runnable by the suite: commands come as lines of JSON, events go as lines of JSON. README.md has the list.

import { createInterface } from "node:readline";
import { Client, webSocket } from "../typescript/dist/index.js";
import { nodeTcp } from "../typescript/dist/node-tcp.js";

const WebSocket = globalThis.WebSocket ?? (await import("../typescript/node_modules/ws/wrapper.mjs")).WebSocket;
const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
let client = null;

/** Ends the client of the last case; what it tells of that is of no interest. */
function forget() {
  const old = client;
  client = null;
  old?.close();
}

const commands = {
  connect({ url, dialect, resume, requestTimeout }) {
    forget();
    client = new Client(url, {
      dialect,
      resume,
      requestTimeout,
      transport: url.startsWith("tcp:") ? nodeTcp() : webSocket(WebSocket),
      reconnect: { min: 20, max: 100 },
    });
    const mine = client;
    const on = (event, detail) => mine.on(event, (value) => mine === client && tell({ event, ...detail?.(value) }));
    on("open");
    on("suspended", ({ resumable }) => ({ resumable }));
    on("resumed", ({ missed }) => ({ missed }));
    on("restarted", ({ lost }) => ({ lost }));
    on("kicked", (reason) => ({ reason }));
    on("closed", (reason) => ({ reason }));
    on("error", (error) => ({ code: error.code }));
    mine.onPush("*", ({ route, body }) => mine === client && tell({ event: "push", route, body }));
    mine.connect().catch(() => {});
  },
  request({ id, route, body }) {
    client.request(route, body).then(
      (body) => tell({ event: "answer", id, body }),
      ({ code, body }) => tell({ event: "failed", id, code, body }),
    );
  },
  notify({ route, body }) {
    try {
      client.notify(route, body);
    } catch ({ code }) {
      tell({ event: "failed", code });
    }
  },
  reset() {
    forget();
    tell({ event: "reset" });
  },
  close: () => client.close(),
  cut: () => client.interrupt(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line);
  if (name === "end") break;
  commands[name]?.(rest);
}
forget();
