// Starts `shaddock demo` on free ports, for one test file; as a cluster if SHADDOCK_DEMO_CLUSTER is set.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import { freePorts } from "./ports.js";

const target = process.env.CARGO_TARGET_DIR ?? new URL("../../target", import.meta.url).pathname;
const mode = process.env.SHADDOCK_DEMO_CLUSTER ? ["--cluster"] : [];
const examples = new URL("../../examples/http/", import.meta.url).pathname;
export const binary = process.env.SHADDOCK_BIN ?? `${target}/debug/shaddock`;

/** A chat of `examples/http` on a free port, by the name of its file. */
export async function startExample(file) {
  const env = { ...process.env, CHAT_SECRET: `whsec_${randomBytes(32).toString("base64")}` };
  const [port] = await freePorts(1);
  const programs = { py: ["python3"], mjs: ["node"], php: ["php", "-S", `127.0.0.1:${port}`], go: ["go", "run"] };
  const [program, ...args] = programs[file.split(".").pop()];
  const state = `${tmpdir()}/shaddock-page-${process.pid}-${port}.json`;
  const rest = program === "php" ? [] : [String(port)];
  const options = { env: { ...env, CHAT_STATE: state }, stdio: "ignore", detached: true };
  const child = spawn(program, [...args, examples + file, ...rest], options);
  const failed = new Promise((_, reject) => child.once("error", reject));
  const answers = () => fetch(`http://127.0.0.1:${port}/`, { method: "POST", body: "{}" }).then(() => true, () => child.exitCode !== null);
  await Promise.race([until(answers, `${file} to answer`, 120_000), failed]);
  if (child.exitCode !== null) throw new Error(`${file} ended with ${child.exitCode}`);
  const url = `http://127.0.0.1:${port}/shaddock`;
  const settings = ["connector", "chat"].flatMap((type) => [`backends.${type}.url=${url}`, `backends.${type}.timeout=60s`]);
  return {
    env,
    flags: ["--config", `${examples}shaddock.toml`, ...settings.flatMap((one) => ["--set", one])],
    async stop() {
      // `go run` has a child of its own.
      process.kill(-child.pid, "SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
      await rm(state, { force: true });
    },
  };
}

/** A running demo: its ports, and `stop()`, which ends it as an operator would and gives the exit code. */
export async function startDemo({ flags = [], env = process.env, cluster = false } = {}) {
  const [gate, first, second, page, admin] = await freePorts(5);
  const ports = ["--gate-port", gate, "--connector-ports", `${first},${second}`, "--page-port", page];
  const settings = ["--set", `admin.address=127.0.0.1:${admin}`, "--set", "drain.spread=200ms"];
  const child = spawn(binary, ["demo", ...(cluster ? ["--cluster"] : mode), ...ports, ...settings, ...flags].map(String), {
    stdio: ["ignore", "pipe", "pipe"],
    env,
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
      const timer = setTimeout(() => child.kill("SIGKILL"), 120_000);
      const [code] = await exited;
      clearTimeout(timer);
      return code;
    },
  };
}

/** Time for what must happen, on a machine that may be slow and busy. */
export const PATIENCE = 60_000;

/** Asks again until `look` gives something truthy. */
export async function until(look, what, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

/** Fills in the form of the demo's page. */
export async function join(page, name, room) {
  await page.fill("#name", name);
  await page.fill("#room", room);
  await page.click("#join-button");
}

/** The same, until the page is in the room. The page gives up a server that is slow, and says so; a person would try again. */
export async function joined(page, name, room) {
  await until(async () => {
    await join(page, name, room);
    await page.waitForSelector("#room-view:not([hidden]), #notice:not([hidden]), #name-error:not([hidden])");
    return page.locator("#room-view").isVisible();
  }, `${name} to be in ${room}`);
}
