// The published browser client, as npm has it, in a window of its own: it keeps its state in globals, so every player needs one.

import { EventEmitter } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import vm from "node:vm";
import { WebSocket } from "ws";
import { until } from "./demo.js";

const require = createRequire(import.meta.url);
const source = (path) => readFileSync(require.resolve(path), "utf8");

const PROTOCOL = source("pomelo-protocol/lib/protocol.js");
const PROTOBUF = source("pomelo-protobuf/lib/client/protobuf.js");
const CLIENT = source("pomelo-jsclient-websocket/lib/pomelo-client.js");

/** What a page would have after loading the client's scripts: `window.pomelo`. */
export function newWindow() {
  const stored = new Map();
  const localStorage = {
    getItem: (key) => stored.get(key) ?? null,
    setItem: (key, value) => stored.set(key, String(value)),
  };
  const quiet = { log() {}, error() {} };
  const window = { WebSocket, localStorage, console: quiet, setTimeout, clearTimeout, EventEmitter };
  window.window = window;
  vm.createContext(window);
  const load = (text) => {
    window.module = { exports: {} };
    vm.runInContext(text, window);
    return window.module.exports;
  };
  load(PROTOCOL);
  window.protobuf = load(PROTOBUF);
  // Client 0.1.1 calls a function that the browser build of pomelo-protobuf 0.4.0 calls `decode`.
  window.protobuf.decodeStr = window.protobuf.decode;
  load(CLIENT);
  return window;
}

/** A player: promises around the callbacks of `window.pomelo`. */
export class Player {
  constructor() {
    this.window = newWindow();
    this.pomelo = this.window.pomelo;
    this.heard = [];
    for (const route of ["onChat", "onAdd", "onLeave", "onKick", "disconnect"]) {
      // Objects of the window have another prototype than ours; JSON makes them comparable.
      this.pomelo.on(route, (body) => this.heard.push({ route, body: route === "disconnect" ? null : plain(body) }));
    }
  }

  init(port, host = "127.0.0.1") {
    return new Promise((resolve) => this.pomelo.init({ host, port, log: true }, resolve));
  }

  request(route, body) {
    return new Promise((resolve) => this.pomelo.request(route, body, (answer) => resolve(plain(answer))));
  }

  /** Gate, then connector, then room, as the page of the sample does. */
  async enter(gate, username, rid) {
    await this.init(gate);
    const entry = await this.request("gate.gateHandler.queryEntry", { uid: username });
    this.pomelo.disconnect();
    // The gate's socket says goodbye later; that is not the one the tests ask about.
    await until(() => this.of("disconnect").length, "the end of the gate's connection");
    this.entry = entry;
    this.heard.length = 0;
    await this.init(entry.port, entry.host);
    return this.request("connector.entryHandler.enter", { username, rid });
  }

  of(route) {
    return this.heard.filter((one) => one.route === route).map((one) => one.body);
  }

  leave() {
    this.pomelo.disconnect();
  }
}

const plain = (value) => JSON.parse(JSON.stringify(value ?? null));
