#!/usr/bin/env node
// The conformance suite for clients: README.md.
//
//   node server.mjs run [--only TEXT] [--transport tcp|ws] -- COMMAND..   plays every case with a client, prints a table
//   node server.mjs --port 0 [--case NAME]                               plays cases with whatever connects, tells you what to do
//   node server.mjs list

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { isDeepStrictEqual } from "node:util";
import { cases } from "./cases.mjs";
import { listen } from "./wire.mjs";

// For what must happen, on a machine that may be slow and busy.
const START = 60_000;
const PATIENCE = 60_000;
const vectors = (name) => JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}.json`, import.meta.url)));

/** Vectors that JSON can carry to a client: no NaN and the like. */
const golden = {
  protobuf() {
    const { parsed, cases: list } = vectors("protobuf");
    // Each file of schemas under routes of its own; its root messages keep their names only there.
    const schemas = {};
    const usable = Object.entries(parsed).filter(([, text]) => !/"message /.test(text));
    for (const [file, text] of usable) for (const [route, schema] of Object.entries(JSON.parse(text))) schemas[`${file}.x.${route}`] = schema;
    const names = new Set(usable.map(([file]) => file));
    return {
      schemas,
      list: list
        .filter((one) => names.has(one.schema) && Buffer.from(one.hex, "hex").length)
        .map((one) => ({ ...one, route: `${one.schema}.x.${one.route}`, plain: !JSON.stringify([one.input, one.decoded]).includes("$number") })),
    };
  },
};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The client, through a command that speaks lines of JSON. */
class Driver {
  #events = [];
  #waiting = [];

  constructor(command) {
    this.child = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
    this.child.stdin.on("error", () => {});
    createInterface({ input: this.child.stdout }).on("line", (line) => {
      this.#events.push(JSON.parse(line));
      for (const look of this.#waiting.splice(0)) look();
    });
    this.gone = new Promise((resolve) => this.child.once("close", resolve));
  }

  async do(name, rest = {}) {
    if (name === "connect") rest = { url: this.url, ...rest };
    this.child.stdin.write(`${JSON.stringify({ do: name, ...rest })}\n`);
  }

  /**
   * Waits for that event. Messages (pushes, answers) and the end must not come before it; events of other kinds may, and stay to be seen later:
   * whether a client first tells that a request failed or that the connection is lost is its own choice.
   */
  async see(event, members = {}) {
    for (;;) {
      const at = this.#events.findIndex((one) => one.event === event);
      const before = this.#events.slice(0, at < 0 ? undefined : at).find((one) => ["push", "answer", "closed"].includes(one.event));
      if (before) throw new Error(`waited for ${event}, the client told ${JSON.stringify(before).slice(0, 200)}`);
      if (at < 0) {
        await new Promise((look) => this.#waiting.push(look));
        continue;
      }
      const [found] = this.#events.splice(at, 1);
      for (const [name, value] of Object.entries(members)) {
        if (!isDeepStrictEqual(found[name], value)) throw new Error(`${event}: ${name} should be ${JSON.stringify(value)}: ${JSON.stringify(found).slice(0, 200)}`);
      }
      return found;
    }
  }

  /** Between two cases: nothing of the last one is left. */
  async reset() {
    await this.do("reset");
    while (!this.#events.some((one) => one.event === "reset")) await new Promise((look) => this.#waiting.push(look));
    this.#events = [];
  }

  /** No more than `count` events about messages come. */
  async sees(count, ms) {
    await pause(ms);
    const found = this.#events.filter(({ event }) => event === "push" || event === "answer");
    if (found.length > count) throw new Error(`the client told too much: ${JSON.stringify(found)}`);
  }

  async end() {
    this.child.stdin.end('{"do":"end"}\n');
    const timer = setTimeout(() => this.child.kill(), 2000);
    await this.gone;
    clearTimeout(timer);
  }
}

/** Somebody who reads instructions. */
const reader = {
  do: async (name, rest) => console.log(`  do: ${name} ${rest ? JSON.stringify(rest).slice(0, 200) : ""}`),
  see: async (event, members) => {
    console.log(`  your client should tell: ${event} ${members ? JSON.stringify(members) : ""}`);
    return { event, ...members };
  },
  sees: async () => {},
};

function context(client, server, transport) {
  return {
    client,
    golden,
    accept: server.accept,
    urlOf: (port) => `${transport}://127.0.0.1:${port}`,
    /** No message comes on the connection. */
    async quiet(connection, ms) {
      await pause(ms);
      if (connection.packages.length) throw new Error(`the client sent ${connection.packages.length} packages too many, the first of type ${connection.packages[0].kind}`);
    },
    /** Nobody connects. */
    async nobodyComes(ms) {
      const came = await Promise.race([server.accept(), pause(ms)]);
      if (came) throw new Error("the client came back, and should not have");
    },
  };
}

async function within(work, ms) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`nothing happened for ${ms / 1000} s`)), ms)));
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function play(name, transport, client) {
  const server = await listen();
  client.url = `${transport}://127.0.0.1:${server.port}`;
  const start = Date.now();
  let problem = null;
  try {
    const ended = client.gone.then((code) => Promise.reject(new Error(`the client's command ended with ${code}`)));
    ended.catch(() => {});
    await within(Promise.race([client.reset(), ended]), START);
    await within(Promise.race([cases[name](context(client, server, transport)), ended]), PATIENCE);
  } catch (error) {
    problem = String(error.message).split("\n").slice(0, 12).join("\n      ");
  }
  server.close();
  return { name, transport, problem, ms: Date.now() - start };
}

async function run(command, { only, transports }) {
  const work = Object.keys(cases).flatMap((name) => transports.map((transport) => [name, transport]));
  const chosen = work.filter(([name]) => name.includes(only));
  const results = [];
  let next = 0;
  const worker = async () => {
    let client = new Driver(command);
    while (next < chosen.length) {
      const at = next++;
      results[at] = await play(...chosen[at], client);
      if (!results[at].problem) continue;
      // What a failed case has left behind must not be the next one's problem.
      await client.end();
      client = new Driver(command);
    }
    await client.end();
  };
  await Promise.all(Array.from({ length: 4 }, worker));
  for (const { name, transport, problem, ms } of results) {
    console.log(`${problem ? "FAIL" : "pass"}  ${transport.padEnd(4)}${String(ms).padStart(6)} ms  ${name}`);
    if (problem) console.log(`      ${problem}`);
  }
  const failed = results.filter(({ problem }) => problem).length;
  console.log(`\n${results.length - failed} of ${results.length} cases passed`);
  process.exitCode = failed || !results.length ? 1 : 0;
}

async function serve(port, only) {
  const server = await listen(port);
  console.log(`listening on ws://127.0.0.1:${server.port} and tcp://127.0.0.1:${server.port}`);
  for (const name of Object.keys(cases).filter((name) => name.includes(only))) {
    console.log(`\n${name}`);
    try {
      await cases[name](context(reader, server, "ws"));
      console.log("  as it should be");
    } catch (error) {
      console.log(`  NOT as it should be: ${error.message}`);
    }
  }
  server.close();
}

const args = process.argv.slice(2);
const split = args.indexOf("--");
const options = split < 0 ? args : args.slice(0, split);
const option = (name, otherwise) => (options.includes(name) ? options[options.indexOf(name) + 1] : otherwise);
if (options[0] === "list") for (const name of Object.keys(cases)) console.log(name);
else if (options[0] === "run" && split >= 0) await run(args.slice(split + 1), { only: option("--only", ""), transports: options.includes("--transport") ? [option("--transport")] : ["tcp", "ws"] });
else if (options.includes("--port")) await serve(Number(option("--port")), option("--case", ""));
else {
  console.error("node server.mjs run [--only TEXT] [--transport tcp|ws] -- COMMAND..\nnode server.mjs --port 0 [--case TEXT]\nnode server.mjs list");
  process.exitCode = 2;
}
