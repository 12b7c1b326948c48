#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to fuzz/corpus/TARGET, made from tests/vectors. Runs anew before every fuzz run."""

import gzip
import hashlib
import json
import struct
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Seeds lie on both sides of every bound; `scripts/fuzz.sh` lets inputs be longer than the longest of them.
LARGEST = 70_000


def vectors(name):
    return json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text())


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def seed(target, data):
    if len(data) > LARGEST:
        return
    folder = ROOT / "fuzz" / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{hashlib.sha1(data).hexdigest()[:16]}").write_bytes(data)


def short_text(data):
    """A length byte, then the bytes."""
    return bytes([len(data)]) + data if len(data) < 256 else b"\0"


SPLITS = [b"\0", b"\x01\0", b"\x03\0\x05\x30"]


def packages():
    for case in vectors("packages")["cases"]:
        data = bytes.fromhex(case["hex"])
        for split in SPLITS:
            seed("package", b"\xff\xff" + split + data)
    for length in (65_535, 65_536):
        seed("package", b"\xff\xff\x01\xff\x04" + struct.pack(">I", length)[1:] + bytes(length))
    for data in ["00000000", "06000000", "04ffffff", "0400000161", "0400"]:
        seed("package", b"\x00\x10\0" + bytes.fromhex(data))


def messages():
    for name in ("messages", "pitaya-messages"):
        for case in vectors(name)["cases"]:
            if isinstance(case.get("hex"), str):
                seed("message", bytes.fromhex(case["hex"]))
    for case in vectors("malformed")["cases"]:
        if case["op"].startswith("Message") and "hex" in case:
            seed("message", bytes.fromhex(case["hex"]))


def protobufs():
    index = 0
    for name in ("protobuf", "pinus-protobuf"):
        file = vectors(name)
        places = {schema: index + at for at, schema in enumerate(file["schemas"])}
        index += len(places)
        for case in file["cases"]:
            place = places[case["schema"]]
            seed("protobuf", bytes([place]) + bytes.fromhex(case["hex"]))
            if "input" in case and "$" not in json.dumps(case["input"]):
                seed("protobuf", bytes([place]) + compact(case["input"]))
        for schema in file["schemas"].values():
            text = compact(schema)
            seed("protobuf", b"\xff" + struct.pack(">H", len(text)) + text + b"\x08\x01")
        for parsed in file["parsed"].values():
            text = parsed.encode()
            seed("protobuf", b"\xff" + struct.pack(">H", len(text)) + text)
    for body in ["0a040a020a00", "12001200", "1a020161000162021200", "a2120201610001620a0a00", "0a021a0012000a00"]:
        seed("protobuf", bytes([index]) + bytes.fromhex(body))
    seed("protobuf", bytes([index]) + b'{"one":{"b":true,"many":[{"b":false,"d":[0.5,1e300]}]},"m":{"a":{"b":true}},"o":{},"s":["x"]}')
    for text in [b'{"Z":9e99999,"u":1}', b'{"Z":"\xff","u":1}', b'{"u":1,"u":2}']:
        seed("protobuf", b"\0" + text)
    for case in vectors("malformed")["cases"]:
        if case["op"] == "protobuf.decode":
            seed("protobuf", bytes([places.get(case["schema"], 0)]) + bytes.fromhex(case["hex"]))


def handshakes():
    bodies = [case["input"] for case in vectors("handshake")["cases"] if isinstance(case["input"], str)]
    rsa = vectors("crypto")["rsa"]
    bodies.append(compact({"sys": {"type": "unity", "version": 1.5, "rsa": rsa}, "user": None}).decode())
    bodies.append('{"sys":{"platform":"ios","libVersion":"0.3.5","clientBuildNumber":20,"clientVersion":"2.1"},"user":{"x":"\\ud83d"}}')
    nested = '{"sys":{"type":"unity"},"user":[' + '{"a":0},' * 8000 + "0]}"
    bodies += [nested, nested.replace('"user"', '"other"'), '{"sys":{"type":"' + "x" * 66_000 + '"}}', '{"sys":{"a":' + "[" * 130 + "]" * 130 + '},"user":' + "[" * 126 + "]" * 126 + "}"]
    for body in bodies:
        for choice in range(3):
            seed("handshake", bytes([choice]) + body.encode())
    # Bytes that are not UTF-8, in a name with escapes: the text grows most, and so does the buffer of its parser.
    seed("handshake", b"\x02{\"" + (b"\x9c" * 40 + b"\\\"") * 30 + b"\":1}")


def signatures():
    file = vectors("crypto")
    for case in file["cases"]:
        seed("crypto", b"\1\0" + case["input"]["bodyJson"].encode())
        seed("crypto", b"\0\0" + case["input"]["bodyJson"].encode())
    modulus = bytes.fromhex(file["rsa"]["rsa_n"])
    body = file["cases"][0]["input"]["bodyJson"].encode()
    seed("crypto", b"\0\1" + short_text(modulus) + short_text(b"65537") + body)
    seed("crypto", b"\0\1" + short_text(modulus[:64]) + short_text(b"3") + b'{"__crypto__":"00"}')
    seed("crypto", b'\0\0{"a":"\\"}","__crypto\\u005f_":"ab" , "b":{"__crypto__":[1,{}]}}')


def streams():
    for data in [b"", b"a", b"hello" * 50, bytes(3000), bytes(range(256)) * 3]:
        for level in (0, 1, 6, 9):
            seed("inflate", b"\xff\xff" + zlib.compress(data, level))
        seed("inflate", b"\xff\xff" + gzip.compress(data, mtime=0))
        seed("inflate", struct.pack(">H", len(data)) + zlib.compress(data))
    head = b"\x1f\x8b\x08\x1e\0\0\0\0\2\3\3\0xyzname\0comment\0\x12\x34"
    seed("inflate", b"\xff\xff" + head + gzip.compress(b"hello", mtime=0)[10:])


def texts():
    for case in vectors("browser-strings")["cases"]:
        seed("text", bytes.fromhex(case["hex"]))
        seed("text", b'{"m":"' + bytes.fromhex(case["hex"]) + b'"}')
    for text in ['{"a":[1,-0.5e+10,true,false,null,"\\ud83d\\ude00\\n"]}', '"\\ud83d"', "1e999", "[" * 130 + "]" * 130, " \t\n0 ", "{\"😀\":\"中\"}"]:
        seed("text", text.encode())


def connections():
    chat = b'{"name":"a","skills":[1]}'

    def request(kind, identifier, route, compressed, body):
        return bytes([2, kind]) + struct.pack(">H", identifier) + route + bytes([compressed]) + short_text(body)

    signed = vectors("crypto")["cases"][0]["input"]["bodyJson"].encode()
    for flags in [0, 4, 8, 12, 16, 32, 44, 64, 66, 70, 128, 172, 1, 2, 34, 20, 24]:
        for hello in range(5):
            start = bytes([flags, 3, hello, 6, 2, 4])
            seed("conn_ops", start)
            seed("conn_ops", start + request(0, 1, b"\0", 0, chat) + request(1, 0, b"\1", 0, b"{}") + bytes([5, 11, 10, 0, 9]))
            seed("conn_ops", start + request(0, 7, b"\7", 0, b"\x0a\x01a\x10\x01\x05") + request(0, 8, b"\0", 0, b"\x0a\x01a"))
            seed("conn_ops", start + request(0, 300, b"\3", 1, b"\1" + chat) + request(0, 2, b"\2", 0, b"") + bytes([8, 11]))
            seed("conn_ops", start + request(0, 1, b"\1", 0, signed[:255]) + b"\x0b\x0b")
        seed("conn_ops", bytes([flags, 3, 0, 7, 1, 4]))
        seed("conn_ops", bytes([flags, 0, 5, 1, 0, 0, 2, 0x7B, 0, 1, 0x7D, 11]))
        seed("conn_ops", bytes([flags, 11]))
        seed("conn_ops", bytes([flags, 3, 0, 11]))
        seed("conn_ops", bytes([flags, 3, 0, 6, 0, 11]))
        seed("conn_ops", bytes([flags, 1, 4, 3, 1, 2, 3, 3, 0, 6, 0, 1, 0, 0]))


def frames():
    def frame(first, payload, mask=b"\1\2\3\4"):
        length = len(payload)
        if length < 126:
            head = bytes([first, 0x80 | length])
        else:
            head = bytes([first, 0x80 | 126]) + struct.pack(">H", length)
        return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))

    streams_of_frames = [
        frame(0x82, b"\1\0\0\2{}"),
        frame(0x02, b"fra") + frame(0x89, b"ping") + frame(0x00, b"gm") + frame(0x80, b"ent"),
        frame(0x81, b"x" * 200) + frame(0x8A, b"") + frame(0x88, b"\x03\xe9bye"),
        frame(0x88, b""),
        frame(0xC2, b"x"),
        frame(0x80, b"x"),
        frame(0x09, b"x"),
        b"\x82\x05hello",
        b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0",
    ]
    for stream in streams_of_frames:
        for split in SPLITS:
            seed("ws", b"\xff\xff" + split + stream)
        seed("ws", b"\0\x04\0" + stream)
    for length in (65_535, 65_536):
        head = b"\x82\xff" + struct.pack(">Q", length) + bytes(4)
        seed("ws", b"\xff\xff\x01\xff" + head + bytes(length))
        seed("ws", b"\xff\xff\x01\xff" + b"\x02" + head[1:] + bytes(length) + b"\x80\x81" + bytes(4) + b"x")


def proxies():
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    heads = [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nrest",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff 1 2\r\n",
        b"PROXY UNKNOWN x\n y\r\n",
        signature + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 4, 1, 0xBB]) + b"rest",
        signature + b"\x21\x21\0\x24" + bytes(36),
        signature + b"\x20\0\0\0",
        signature + b"\x21\x11\0\x13" + bytes(12) + b"\x04\0\x04abcd",
        signature + b"\x21\x31\0\xd8" + bytes(216),
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    for length in (520, 521, 768):  # The longest head that is read has 16 + 520 bytes.
        heads.append(signature + b"\x21\x11" + struct.pack(">H", length) + bytes(12) + b"\x04" + struct.pack(">H", length - 15) + bytes(length - 15))
    for head in heads:
        for split in SPLITS:
            seed("proxy", split + head)


def upgrades():
    common = b"Host: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    heads = [
        b"GET / HTTP/1.1\r\n" + common + b"\r\nrest",
        b"GET /x?y HTTP/1.1\r\n" + common + b"Origin: https://play.example.com\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + common + b"Origin: https://other.example.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + common + b"Content-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.0\r\n" + common + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 130 + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
    ]
    heads += [
        b"GET /?a=\"<b>\" HTTP/1.1\r\n" + common.replace(b"keep-alive, Upgrade", b"keep-alive\r\nConnection: upgrade") + b"\r\n",
        b"GET / HTTP/1.1\r\n" + common + b"Sec-WebSocket-Protocol: a, pomelo\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: [::1]:1, 10.0.0.1:80\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + common.replace(b"13", b"8") + b"\r\n",
    ]
    for length in (8191, 8192, 8193, 9216, 19_000):
        head = b"GET / HTTP/1.1\r\n" + common + b"X: "
        heads.append(head + b"y" * (length - len(head) - 4) + b"\r\n\r\n")
        heads.append(head + b"y" * (length - len(head)))
    for head in heads:
        for flags in (0, 1, 7, 15):
            for split in SPLITS:
                seed("upgrade", bytes([flags]) + split + head)


def bindings():
    for data in [bytes(range(64)), bytes([0] * 8 + [1, 0, 0, 1, 1, 0, 2, 0]), bytes([1] * 40), bytes([3] + list(range(0, 250, 7)))]:
        seed("binding_ops", data)


def resumptions():
    def step(client, op, *more):
        return bytes([client, op, *more])

    push, hear, ack, ask = step(0, 0, 9), step(0, 3, 0), step(0, 5), step(0, 6)
    half, lose, back, lost_answer = step(0, 3, 20), step(0, 7), step(0, 8, 0, 0), step(0, 8, 1, 0)
    lost_ack, live, wrong_ack = step(0, 8, 0, 1), step(0, 10), step(0, 12, 0, 99)
    lies = [step(0, 11, kind, 40, 7) for kind in range(8)]
    seed("resume_ops", push * 3 + hear + ack + ask * 4 + lose + push + back + hear)
    seed("resume_ops", push * 2 + half + push * 9 + lost_answer + push + lost_ack + push * 9 + live + hear + ack)
    seed("resume_ops", (push + step(0, 2, 9, 0) + lose + step(0, 2, 9, 0) * 3 + back + hear) * 3)
    seed("resume_ops", push + hear + ack + wrong_ack + b"".join(lies) + lose + b"".join(lies) + back + b"".join(lies))
    seed("resume_ops", b"".join(step(client, 7) for client in range(4)) + b"".join(step(client, 8, 0, 0) for client in range(4)))
    seed("resume_ops", lost_answer * 12 + lose + step(0, 13, 0) + back + push + step(0, 13, 1) + back + step(0, 13, 2) + push + hear + back)


def main():
    for make in (packages, messages, protobufs, handshakes, signatures, streams, texts, connections, frames, proxies, upgrades, bindings, resumptions):
        make()


if __name__ == "__main__":
    main()
