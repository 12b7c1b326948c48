// Starts a Pomelo or Pinus application the way its own starter does: a master, which every frontend must find, and one
// frontend. Prints `pid N` of the frontend, which is the process that is measured.
//
// usage: node-peer.mjs DIRECTORY MASTER_PORT CLIENT_PORT

import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const [directory, masterPort, clientPort] = process.argv.slice(2);
const children = [];

function start(...args) {
  const child = spawn(process.execPath, ['app.js', 'env=production', ...args], {
    cwd: directory,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  child.once('exit', (code) => stop(code ?? 1));
  children.push(child);
  return child;
}

function stop(code) {
  for (const child of children) child.kill('SIGKILL');
  process.exit(code);
}

async function reachable(port) {
  for (let tries = 0; tries < 300; tries += 1) {
    const open = await new Promise((resolve) => {
      const socket = connect(Number(port), '127.0.0.1', () => resolve(true));
      socket.once('error', () => resolve(false));
      socket.once('connect', () => socket.destroy());
    });
    if (open) return;
    await sleep(100);
  }
  console.error(`nothing listens on port ${port}`);
  stop(1);
}

process.once('SIGTERM', () => stop(0));
process.once('SIGINT', () => stop(0));

start('type=master', 'startId=master');
await reachable(masterPort);
const frontend = start(
  'id=bench-1',
  'serverType=bench',
  'host=127.0.0.1',
  `port=${Number(masterPort) + 1}`,
  'clientHost=127.0.0.1',
  `clientPort=${clientPort}`,
  'frontend=true',
);
await reachable(clientPort);
console.log(`pid ${frontend.pid}`);
