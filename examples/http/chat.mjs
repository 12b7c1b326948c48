// Pomelo's chat sample behind shaddock, without a package: node chat.mjs [PORT]
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const keys = (process.env.CHAT_SECRET ?? "").split(" ").map((text) => Buffer.from(text.replace("whsec_", ""), "base64")).filter((key) => key.length > 0);
if (keys.length === 0) throw new Error("CHAT_SECRET has no key"); // With an empty one everybody could sign.
const members = new Map(); // sid -> { room, name }
const seen = new Map(); // id -> { time, value }

function isSigned(headers, body) {
  const sent = Number(headers["webhook-timestamp"]);
  if (!(Math.abs(Date.now() / 1000 - sent) <= 300)) return false;
  const sign = (key) => createHmac("sha256", key).update(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`).update(body).digest("base64");
  const wanted = keys.map((key) => Buffer.from("v1," + sign(key)));
  const given = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text));
  return given.some((one) => wanted.some((key) => one.length === key.length && timingSafeEqual(one, key)));
}

const users = (room) => [...members.values()].filter((one) => one.room === room).map((one) => one.name).sort();
const push = (route, body, room, names) => ({ push: { route, body, users: names.map((name) => `${name}*${room}`) } }); // A user is a name in a room.

const routes = {
  "connector.entryHandler.enter"({ sid }, { username: name, rid: room }) { // A real chat asks for a token here.
    const others = users(room);
    if (members.has(sid) || others.includes(name) || name === "" || name.includes("*")) return { body: { code: 500, error: true } };
    members.set(sid, { room, name });
    return { body: { users: users(room) }, actions: [{ bind: `${name}*${room}` }, { set: { rid: room } }, push("onAdd", { user: name }, room, others)] };
  },
  "chat.chatHandler.send"({ sid }, { content, target }) {
    if (!members.has(sid)) return { error: { code: "CHAT-401", message: "enter a room first" } };
    const { room, name } = members.get(sid);
    const to = users(room).filter((one) => target === "*" || one === target);
    return { body: { code: to.length > 0 ? 200 : 404 }, actions: [push("onChat", { msg: content, from: name, target }, room, to)] };
  },
  closed({ sid }) {
    const { room, name } = members.get(sid) ?? {};
    return members.delete(sid) ? { actions: [push("onLeave", { user: name }, room, users(room))] } : {};
  },
};

function answer({ headers }, body) { // The same to one that is repeated: each is carried out once.
  if (!isSigned(headers, body)) return [401, {}];
  const [id, now] = [headers["webhook-id"], Date.now()];
  for (const [old, { time }] of seen) {
    if (time > now - 600_000) break; // Older ones have an old timestamp.
    seen.delete(old);
  }
  if (!seen.has(id)) {
    const { event, route, session, body: value } = JSON.parse(body);
    const name = event ?? route; // Not the path, which is not signed.
    const error = { code: "CHAT-404", message: "no such route" };
    seen.set(id, { time: now, value: Object.hasOwn(routes, name) ? routes[name](session, value) : { error } });
  }
  return [200, seen.get(id).value];
}

const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  let [status, value] = [500, {}];
  try {
    [status, value] = answer(request, Buffer.concat(parts));
  } catch (error) {
    console.error(error); // Such as a body without `room`.
  }
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
});
server.listen(Number(process.argv[2] ?? 8000), "127.0.0.1", () => console.log("listening on", server.address().port));
