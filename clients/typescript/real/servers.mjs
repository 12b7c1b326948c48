// Starts servers of others, each on free ports of this machine and in a folder of its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect as dial, createServer } from "node:net";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { freePorts } from "../../../tests/js/ports.js";

const modules = fileURLToPath(new URL("node_modules", import.meta.url));

export { freePorts };

/** A process; `stop()` ends it. */
export function run(command, args, options = {}) {
  const child = spawn(command, args.map(String), { stdio: ["ignore", "pipe", "pipe"], ...options });
  const log = [];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => log.push(chunk));
  const exited = new Promise((resolve) => child.once("close", resolve));
  child.once("error", (error) => log.push(Buffer.from(String(error))));
  return {
    log: () => Buffer.concat(log).toString(),
    get ended() {
      return child.exitCode !== null || child.signalCode !== null;
    },
    signal: (name) => child.kill(name),
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 3000);
      await exited;
      clearTimeout(timer);
    },
  };
}

/** Waits until somebody listens there. */
export async function listening(port, server, patience = 120_000) {
  for (const end = Date.now() + patience; ; ) {
    const socket = dial(port, "127.0.0.1");
    const open = await new Promise((resolve) => socket.once("connect", () => resolve(true)).once("error", () => resolve(false)));
    socket.destroy();
    if (open) return;
    if (server.ended || Date.now() > end) throw new Error(`nobody listens on ${port}: ${server.log().slice(-3000)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Carries bytes to `port`, and cuts the first `cuts` connections each after so many bytes as `next()` says. */
export async function cuttingProxy(port, cuts, next) {
  const proxy = { left: cuts, port: 0, stop: () => {} };
  const open = new Set();
  const server = createServer((client) => {
    const far = dial(port, "127.0.0.1");
    let bytes = proxy.left > 0 ? next() : Infinity;
    const end = () => {
      client.destroy();
      far.destroy();
      open.delete(end);
    };
    open.add(end);
    const carry = (from, to) => {
      from.on("data", (chunk) => {
        if (bytes <= 0) return;
        to.write(chunk.subarray(0, Math.min(chunk.length, bytes)));
        bytes -= chunk.length;
        if (bytes > 0) return;
        proxy.left--;
        // What was written leaves before the end does.
        setImmediate(end);
      });
      from.on("error", end).on("close", end);
    };
    carry(client, far);
    carry(far, client);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  proxy.port = server.address().port;
  proxy.stop = () => {
    server.close();
    for (const end of open) end();
  };
  return proxy;
}

const APP = {
  pomelo: `
    // Pomelo hands Node an encoding that Node 20 refuses; without this its TCP connections die at the first write.
    const { Socket } = require("node:net");
    const { write } = Socket.prototype;
    Socket.prototype.write = function (data, encoding, done) {
      return write.call(this, data, typeof encoding === "object" ? undefined : encoding, done);
    };
    const framework = require("pomelo");`,
  pinus: `
    require("reflect-metadata");
    const framework = require("pinus").pinus;`,
};

const HANDLER = {
  pomelo: `
    module.exports = (app) => new Handler(app);
    function Handler(app) { this.app = app; }
    Handler.prototype.enter = function (msg, session, next) { session.bind(msg.uid, () => next(null, { ok: true })); };
    Handler.prototype.echo = function (msg, session, next) {
      next(null, msg);
      this.app.get("channelService").pushMessageByUids("onX", { n: 7 }, [{ uid: session.uid, sid: "connector-1" }], () => {});
    };
    Handler.prototype.kick = function (msg, session, next) {
      this.app.get("sessionService").kickBySessionId(session.id, "out", () => {});
    };`,
  pinus: `
    exports.default = (app) => new Handler(app);
    class Handler {
      constructor(app) { this.app = app; }
      async enter(msg, session) { await session.abind(msg.uid); return { ok: true }; }
      async echo(msg, session) {
        setImmediate(() => this.app.get("channelService").pushMessageByUids("onX", { n: 7 }, [{ uid: session.uid, sid: "connector-1" }]));
        return msg;
      }
      async kick(msg, session) { this.app.get("sessionService").kickBySessionId(session.id, "out"); }
    }`,
};

const LOG4JS = {
  pomelo: { appenders: [{ type: "console" }], levels: {} },
  pinus: { appenders: { c: { type: "console" } }, categories: { default: { appenders: ["c"], level: "info" } } },
};

/** Master and one connector: dictionary, protobuf, heartbeats of three seconds. */
export async function startPomelo(kind) {
  const [master, internal, port] = await freePorts(3);
  const folder = mkdtempSync(`${tmpdir()}/shaddock-${kind}-`);
  const handlers = `${folder}/app/servers/connector/handler`;
  mkdirSync(handlers, { recursive: true });
  mkdirSync(`${folder}/config`);
  symlinkSync(modules, `${folder}/node_modules`);
  const connector = { id: "connector-1", host: "127.0.0.1", port: internal, clientHost: "127.0.0.1", clientPort: port, frontend: true };
  const config = {
    servers: { development: { connector: [connector] } },
    master: { development: { id: "master-server-1", host: "127.0.0.1", port: master } },
    // The token that every new Pomelo project has.
    adminServer: [{ type: "connector", token: "agarxhqb98rpajloaxn34ga8xrunpagkjwlaw3ruxnpaagl29w4rxn" }],
    log4js: LOG4JS[kind],
    dictionary: ["onX"],
    serverProtos: { onX: { "required uInt32 n": 1 } },
    clientProtos: { "connector.entryHandler.echo": { "required int32 n": 1, "optional string s": 2 } },
  };
  for (const [name, value] of Object.entries(config)) writeFileSync(`${folder}/config/${name}.json`, JSON.stringify(value));
  writeFileSync(`${handlers}/entryHandler.js`, HANDLER[kind]);
  writeFileSync(
    `${folder}/app.js`,
    `${APP[kind]}
    const app = framework.createApp({ base: __dirname });
    app.set("name", "real");
    app.configure("development", "connector", () => {
      // The master starts this process and does not end it.
      const parent = process.ppid;
      setInterval(() => process.ppid === parent || process.exit(), 100);
      app.set("connectorConfig", { connector: framework.connectors.hybridconnector, heartbeat: 3, useDict: true, useProtobuf: true });
    });
    app.start();`,
  );
  const server = run(process.execPath, ["app.js", "env=development", "type=all"], { cwd: folder });
  const stop = async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  };
  try {
    await listening(port, server);
  } catch (error) {
    await stop();
    throw error;
  }
  return { port, log: server.log, stop };
}

/** NATS, etcd and a frontend of interop/pitaya. */
export async function startPitaya(program) {
  const [nats, etcd, peer, port] = await freePorts(4);
  const folder = mkdtempSync(`${tmpdir()}/shaddock-pitaya-`);
  const url = `http://127.0.0.1:${etcd}`;
  const peers = `http://127.0.0.1:${peer}`;
  const started = [
    run("nats-server", ["-a", "127.0.0.1", "-p", nats]),
    run("/usr/bin/etcd", ["--data-dir", folder, "--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", `default=${peers}`]),
  ];
  const stop = async () => {
    for (const server of started.toReversed()) await server.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await listening(nats, started[0]);
    await listening(etcd, started[1]);
    started.push(run(program, ["-frontend", "-port", port, "-nats", `nats://127.0.0.1:${nats}`, "-etcd", `127.0.0.1:${etcd}`]));
    await listening(port, started[2]);
  } catch (error) {
    await stop();
    throw error;
  }
  return { port, stop };
}
