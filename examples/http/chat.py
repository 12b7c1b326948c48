"""Pomelo's chat sample behind shaddock, with the standard library alone: python3 chat.py [PORT]"""
import base64, hmac, json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = [key for s in os.environ["CHAT_SECRET"].split() if (key := base64.b64decode(s.removeprefix("whsec_")))]
if not KEYS:
    sys.exit("CHAT_SECRET has no key")  # With an empty one everybody could sign.
members, seen, lock = {}, {}, threading.Lock()  # sid -> (room, name), id -> (time, answer)

def is_signed(headers, body):
    sent = headers.get("webhook-timestamp", "")
    if not sent.isdigit() or abs(time.time() - int(sent)) > 300:
        return False
    signed = f"{headers.get('webhook-id')}.{sent}.".encode() + body
    wanted = [b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in KEYS]
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(one, key) for one in given for key in wanted)

def users(room):
    return sorted(name for other, name in members.values() if other == room)

def push(route, body, room, names):  # A user is a name in a room.
    return {"push": {"route": route, "body": body, "users": [f"{name}*{room}" for name in names]}}

def enter(session, body):
    name, room = body["username"], body["rid"]  # A real chat asks for a token here.
    others = users(room)
    if session["sid"] in members or name in others or name == "" or "*" in name:
        return {"body": {"code": 500, "error": True}}
    members[session["sid"]] = (room, name)
    return {"body": {"users": users(room)}, "actions": [{"bind": f"{name}*{room}"}, {"set": {"rid": room}}, push("onAdd", {"user": name}, room, others)]}

def send(session, body):
    if session["sid"] not in members:
        return {"error": {"code": "CHAT-401", "message": "enter a room first"}}
    (room, name), target = members[session["sid"]], body["target"]
    to = users(room) if target == "*" else [one for one in users(room) if one == target]
    chat = {"msg": body["content"], "from": name, "target": target}
    return {"body": {"code": 200 if to else 404}, "actions": [push("onChat", chat, room, to)]}

def closed(session, _):
    room, name = members.pop(session["sid"], (None, None))
    return {"actions": [push("onLeave", {"user": name}, room, users(room))]} if room else {}

routes = {"connector.entryHandler.enter": enter, "chat.chatHandler.send": send, "closed": closed}

def answer(id, body, now):  # The same to one that is repeated: each is carried out once.
    while seen and next(iter(seen.values()))[0] < now - 600:  # Older ones have an old timestamp.
        del seen[next(iter(seen))]
    if id not in seen:
        call = json.loads(body)
        route = routes.get(call.get("event") or call["route"])  # Not the path, which is not signed.
        seen[id] = now, route(call["session"], call["body"]) if route else {"error": {"code": "CHAT-404", "message": "no such route"}}
    return seen[id][1]

class Service(BaseHTTPRequestHandler):
    protocol_version, wbufsize, log_message = "HTTP/1.1", -1, lambda *_: None

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with lock:
            status, value = (200, answer(self.headers["webhook-id"], body, time.time())) if is_signed(self.headers, body) else (401, {})
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

server = ThreadingHTTPServer(("127.0.0.1", int((sys.argv[1:] or [8000])[0])), Service)
print("listening on", server.server_port, flush=True)
server.serve_forever()
