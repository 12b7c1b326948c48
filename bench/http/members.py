"""5,000 members of a topic, and what a push to them costs the server: by a handler, and by the server API."""

from __future__ import annotations

import http.client
import json
import os
import resource
import selectors
import socket
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
SAID = {"text": "x" * 64}


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Member:
    """A Pomelo client that says one thing at a time."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.number = 0
        self.send(1, json.dumps({"sys": {"type": "bench", "version": "1.0"}}).encode())
        self.package()
        self.send(2, b"")

    def send(self, kind: int, body: bytes) -> None:
        self.socket.sendall(bytes([kind]) + len(body).to_bytes(3, "big") + body)

    def package(self) -> bytes:
        while True:
            if len(self.buffer) >= 4:
                end = 4 + int.from_bytes(self.buffer[1:4], "big")
                if len(self.buffer) >= end:
                    package, self.buffer = self.buffer[:end], self.buffer[end:]
                    return package
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed a connection")
            self.buffer += more

    def ask(self, route: str, body: object) -> bytes:
        """The answer: a DATA package that is no push."""
        self.number = self.number % 100 + 1
        text = json.dumps(body).encode()
        self.send(4, bytes([0, self.number, len(route)]) + route.encode() + text)
        while True:
            package = self.package()
            if package[0] == 4 and package[4] >> 1 & 7 == 2:
                if b'"code":500' in package:
                    raise RuntimeError(f"{route}: {package!r}")
                return package


class Hall:
    """Members whose bytes are counted and dropped."""

    def __init__(self, address: str, count: int) -> None:
        self.members = [Member(address) for _ in range(count)]
        for number, member in enumerate(self.members):
            member.ask("bench.hall.enter", {"uid": f"u{number}"})
        self.read = 0
        self.selector = selectors.DefaultSelector()
        for member in self.members:
            member.socket.setblocking(False)
            self.selector.register(member.socket, selectors.EVENT_READ)
        threading.Thread(target=self.drain, daemon=True).start()

    def drain(self) -> None:
        while True:
            for key, _ in self.selector.select():
                more = key.fileobj.recv(65536)
                if not more:
                    self.selector.unregister(key.fileobj)
                self.read += len(more)

    def heard(self, bytes_in_all: int) -> None:
        deadline = time.monotonic() + 120
        while self.read < bytes_in_all:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.read} of {bytes_in_all} bytes were read")
            time.sleep(0.002)


def measure(address: str, admin: str, pid: int, members: int, pushes: int) -> dict[str, float]:
    """Microseconds of the server's CPU for one push by a handler, one by the server API, and one HTTP request."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    hall, speaker = Hall(address, members), Member(address)
    connection = http.client.HTTPConnection(admin)

    def request(method: str, path: str, body: object = None) -> None:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200 or b'"error"' in answer:
            raise RuntimeError(f"{path}: {response.status} {answer!r}")

    command = {"commands": [{"push": {"to": {"topic": "hall"}, "route": "onSay", "body": SAID}}]}
    # A push: package head, flags, route with its length, body.
    size = 4 + 1 + 1 + len("onSay") + len(json.dumps(SAID, separators=(",", ":")))
    ways = {
        "handler": (lambda: speaker.ask("bench.hall.say", SAID), members * size),
        "api": (lambda: request("POST", "/api/cluster/call", command), members * size),
        "http": (lambda: request("GET", "/api/whoami"), 0),
    }
    found = {}
    for name, (one, heard) in ways.items():
        one()
        hall.heard(heard)
        hall.read, before, began = 0, cpu(pid), time.monotonic()
        # One after the other: pushes that wait for a client together are one write, and the response of the server API does not wait for writes.
        for number in range(1, pushes + 1):
            one()
            hall.heard(number * heard)
        found[name] = (cpu(pid) - before) / pushes * 1e6
        found[f"{name}_ms"] = (time.monotonic() - began) / pushes * 1e3
        hall.read = 0
    return found
