// Ports for servers that a test starts.

import { once } from "node:events";
import { createServer } from "node:net";

const given = new Set();

async function isFree(port) {
  const server = createServer();
  try {
    await once(server.listen(port, "127.0.0.1"), "listening");
  } catch {
    return false;
  }
  await once(server.close(), "close");
  return true;
}

/**
 * Ports on which nothing listens. The system gives none of them to outgoing connections: one of those would take the port between this look and
 * the start of the server, or while the server is away. Rust's tests choose theirs in the same way.
 */
export async function freePorts(count) {
  const ports = [];
  while (ports.length < count) {
    const port = 10_000 + Math.floor(Math.random() * 10_000);
    if (given.has(port)) continue;
    given.add(port);
    if (await isFree(port)) ports.push(port);
  }
  return ports;
}
