// Checked by `npm run types`, never run: what a route map makes of the client's methods. A line under @ts-expect-error must be wrong.
import { connect, type Client } from "../src/index.js";

interface Game {
  requests: {
    "room.roomHandler.join": (body: { room: string }) => { users: string[] };
    "room.roomHandler.list": () => { rooms: string[] };
    "room.roomHandler.find": (body?: { text: string }) => Promise<number>;
  };
  notifies: { "room.roomHandler.move": { x: number; y: number } };
  pushes: { onChat: { from: string; msg: string }; onAdd: { user: string } };
}

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(..._: Same<A, B> extends true ? [] : [never]) => {};

export async function typed() {
  const client = await connect<Game>("wss://example.com");
  const joined = await client.request("room.roomHandler.join", { room: "lobby" });
  same<typeof joined, { users: string[] }>();
  const found = await client.request("room.roomHandler.find");
  same<typeof found, number>();
  await client.request("room.roomHandler.list");
  await client.request("room.roomHandler.join", { room: "lobby" }, { timeout: 5, signal: new AbortController().signal });
  // @ts-expect-error no such route
  await client.request("room.roomHandler.jion", { room: "lobby" });
  // @ts-expect-error no body
  await client.request("room.roomHandler.join");
  // @ts-expect-error wrong body
  await client.request("room.roomHandler.join", { room: 5 });
  // @ts-expect-error a notify is no request
  await client.request("room.roomHandler.move", { x: 1, y: 2 });
  client.notify("room.roomHandler.move", { x: 1, y: 2 });
  // @ts-expect-error half a body
  client.notify("room.roomHandler.move", { x: 1 });

  client.on("onChat", (body) => same<typeof body, { from: string; msg: string }>());
  client.on("resumed", (event) => same<typeof event, { missed: number }>());
  client.on("kicked", (reason) => same<typeof reason, string>());
  // @ts-expect-error no such push
  client.on("onChta", () => {});
  for await (const push of client) {
    if (push.route === "onChat") same<typeof push.body, { from: string; msg: string }>();
    else same<typeof push.body, { user: string }>();
  }
}

export async function untyped(client: Client) {
  const answer = await client.request("any.route.here", { any: 1 });
  answer.whatever;
  await client.request("any.route.here");
  client.notify("any.route.here", 5);
  client.on("onAny", (body) => body.whatever);
}
