// Starts `shaddock demo` on free ports, for one test file; as a cluster if SHADDOCK_DEMO_CLUSTER is set.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";

const target = process.env.CARGO_TARGET_DIR ?? new URL("../../target", import.meta.url).pathname;
const mode = process.env.SHADDOCK_DEMO_CLUSTER ? ["--cluster"] : [];
export const binary = process.env.SHADDOCK_BIN ?? `${target}/debug/shaddock`;

async function freePorts(count) {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, "127.0.0.1");
      await once(server, "listening");
      return server;
    }),
  );
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}

/** A running demo: its ports, and `stop()`, which ends it as an operator would and gives the exit code. */
export async function startDemo({ flags = [] } = {}) {
  const [gate, first, second, page, admin] = await freePorts(5);
  const ports = ["--gate-port", gate, "--connector-ports", `${first},${second}`, "--page-port", page];
  const settings = ["--set", `admin.address=127.0.0.1:${admin}`, "--set", "drain.spread=200ms"];
  const child = spawn(binary, ["demo", ...mode, ...ports, ...settings, ...flags].map(String), {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const log = [];
  child.stderr.on("data", (chunk) => log.push(chunk));
  const exited = once(child, "exit");
  const ready = new Promise((resolve, reject) => {
    createInterface(child.stdout).on("line", (line) => line.includes("is running") && resolve());
    exited.then(([code]) => reject(new Error(`the demo ended with ${code}: ${Buffer.concat(log)}`)));
  });
  await ready;
  return {
    gate,
    connectors: [first, second],
    page: `http://127.0.0.1:${page}`,
    admin: `http://127.0.0.1:${admin}`,
    log: () => Buffer.concat(log).toString(),
    /** As a machine that hangs: with SIGSTOP nothing is closed, and nothing answers. */
    signal: (name) => child.kill(name),
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 15_000);
      const [code] = await exited;
      clearTimeout(timer);
      return code;
    },
  };
}

/** Asks again until `look` gives something truthy. */
export async function until(look, what, patience = 8000) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}
