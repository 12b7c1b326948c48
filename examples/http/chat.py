"""A chat with rooms behind `shaddock serve`, with the standard library alone: python3 chat.py [PORT]"""
import base64, hmac, json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = [base64.b64decode(s.removeprefix("whsec_")) for s in os.environ["CHAT_SECRET"].split()]
members, seen, lock = {}, {}, threading.Lock()  # sid -> (room, name), id -> time

def is_signed(headers, body):
    sent = headers.get("webhook-timestamp", "")
    if not sent.isdigit() or abs(time.time() - int(sent)) > 300:
        return False
    signed = f"{headers.get('webhook-id')}.{sent}.".encode() + body
    wanted = [b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in KEYS]
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(one, key) for one in given for key in wanted)

def is_repeated(id, now):
    while seen and next(iter(seen.values())) < now - 600:  # Older ones have an old timestamp.
        del seen[next(iter(seen))]
    return seen.setdefault(id, now) != now

def users(room):
    return sorted(name for other, name in members.values() if other == room)

def push(route, body, to):
    return {"push": {"route": route, "body": body, "users": to}}

def enter(session, body):
    room, name = body["room"], body["name"]  # A real chat asks for a token here.
    if session["sid"] in members or name in users(room):
        return {"error": {"code": "CHAT-409", "message": "the name is taken, or you are in a room"}}
    others, members[session["sid"]] = users(room), (room, name)
    return {"body": {"users": users(room)}, "actions": [{"bind": name}, {"set": {"room": room}}, push("onJoin", {"user": name}, others)]}

def say(session, body):
    if session["sid"] not in members:
        return {"error": {"code": "CHAT-401", "message": "enter a room first"}}
    room, name = members[session["sid"]]
    return {"body": {}, "actions": [push("onChat", {"from": name, "text": body["text"]}, users(room))]}

def closed(session, _):
    room, name = members.pop(session["sid"], (None, None))
    return {"actions": [push("onLeave", {"user": name}, users(room))]} if room else {}

class Service(BaseHTTPRequestHandler):
    protocol_version, wbufsize, log_message = "HTTP/1.1", -1, lambda *_: None
    routes = {"/shaddock/room.enter": enter, "/shaddock/room.say": say, "/shaddock/closed": closed}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        route, status, answer = self.routes.get(self.path), 200, {"error": {"code": "CHAT-404", "message": "no such route"}}
        with lock:
            if not is_signed(self.headers, body):
                status, answer = 401, {}
            elif is_repeated(self.headers["webhook-id"], time.time()):
                answer = {}  # It was carried out before.
            elif route:
                answer = route((call := json.loads(body))["session"], call["body"])
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

server = ThreadingHTTPServer(("127.0.0.1", int((sys.argv[1:] or [8000])[0])), Service)
print("listening on", server.server_port, flush=True)
server.serve_forever()
