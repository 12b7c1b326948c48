// Real sockets: how each transport ends, with and without a goodbye; and the transport of the README.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { listen, push, response } from "../../conformance/wire.mjs";
import { greet } from "../../conformance/cases.mjs";
import { connect, webSocket } from "../dist/index.js";
import { nodeTcp } from "../dist/node-tcp.js";

const grant = { v: 1, token: "t", window: 60, ack: 32 };

for (const [name, transport, scheme] of [["ws", webSocket(WebSocket), "ws"], ["tcp", nodeTcp(), "tcp"]]) {
  test(`${name}: close() says goodbye, interrupt() does not`, async () => {
    const server = await listen();
    try {
      const url = `${scheme}://127.0.0.1:${server.port}`;
      const options = { transport, reconnect: { min: 1, max: 1 } };
      let [client, connection] = await Promise.all([connect(url, options), greet(server.accept, { resume: grant })]);
      client.interrupt();
      assert.equal(await connection.end(), "cut");
      connection = await greet(server.accept, { resume: { ...grant, resumed: true, received: 0, position: 0, missed: 0 } });
      client.close();
      assert.equal(await connection.end(), "goodbye");
      // Without resume there is no KICK to an old server, and the end is the transport's.
      [client, connection] = await Promise.all([connect(url, options), greet(server.accept)]);
      client.close();
      assert.equal(await connection.end(), scheme === "ws" ? "goodbye" : "cut");
    } finally {
      server.close();
    }
  });

  test(`${name}: nobody there`, async () => {
    const server = await listen();
    server.close();
    await assert.rejects(connect(`${scheme}://127.0.0.1:${server.port}`, { transport }), { code: "unreachable" });
    await assert.rejects(connect("not a url", { transport }), { code: "unreachable" });
  });
}

test("the status of a WebSocket that is closed: 1000 is a goodbye, 4000 is none", async () => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await new Promise((resolve) => server.once("listening", resolve));
  try {
    for (const [end, wanted] of [[(client) => client.close(), 1000], [(client) => client.interrupt(), 4000]]) {
      const status = new Promise((resolve) =>
        server.once("connection", (socket) => {
          socket.once("message", () => socket.send(Buffer.concat([Buffer.from([1, 0, 0, 21]), Buffer.from('{"code":200,"sys":{}}')])));
          socket.once("close", resolve);
        }),
      );
      const client = await connect(`ws://127.0.0.1:${server.address().port}`, { transport: webSocket(WebSocket), reconnect: { min: 60_000 } });
      end(client);
      assert.equal(await status, wanted);
      client.close();
    }
  } finally {
    server.close();
  }
});

test("the mini program's transport of the README", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const text = /```js\n(const miniProgram[\s\S]*?)```/.exec(readme)[1];
  // WeChat's socket, as far as the text uses it, over a WebSocket.
  const wx = {
    connectSocket({ url }) {
      const socket = new WebSocket(url);
      socket.binaryType = "arraybuffer";
      return {
        onOpen: (listener) => (socket.onopen = listener),
        onMessage: (listener) => (socket.onmessage = listener),
        onClose: (listener) => (socket.onclose = listener),
        onError: (listener) => (socket.onerror = ({ message }) => listener({ errMsg: message })),
        send: ({ data }) => socket.send(data),
        close: ({ code }) => socket.close(code),
      };
    },
  };
  const transport = new Function("wx", `${text}; return miniProgram;`)(wx);
  const server = await listen();
  try {
    const [client, connection] = await Promise.all([connect(`ws://127.0.0.1:${server.port}`, { transport }), greet(server.accept, { resume: grant })]);
    const heard = new Promise((resolve) => client.on("onN", resolve));
    const answer = client.request("a.b.c", { n: 1 });
    const { id } = await connection.message("request", "a.b.c");
    connection.data(push("onN", { n: 2 }), response(id, { n: 3 }));
    assert.deepEqual([await heard, await answer], [{ n: 2 }, { n: 3 }]);
    client.close();
    assert.equal(await connection.end(), "goodbye");
  } finally {
    server.close();
  }
});
