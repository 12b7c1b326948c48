"""The servers that are measured: how to build them, start them and end them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
BENCH_SERVER = ROOT / "crates/shaddock/examples/bench_server.rs"
START_TIMEOUT = 45.0
# Below the range from which the kernel takes ports for outgoing connections.
FIRST_PORT = 21_000


def target_dir() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


# The directory below `target_dir()` with the programs that are run. Benchmarks measure releases.
profile = "release"


def built(name: str) -> Path:
    return target_dir() / profile / name


def load_tester() -> Path:
    return built("shaddock-bench")


@dataclass(frozen=True)
class Server:
    """One contender. `role` is `floor`, `ours` or `peer`."""

    name: str
    role: str
    workers: int = 1
    # Only `ours`: the bench_server of another commit.
    binary: Path | None = None

    def command(self, transport: str, port: int, scratch: Path) -> list[str]:
        if self.role == "floor":
            flags = ["--port", str(port)] if transport == "tcp" else ["--port", str(port + 1), "--ws-port", str(port)]
            flags += ["--threads", str(self.workers)]
            return [str(built("shaddock-floor")), *flags]
        if self.role == "ours":
            command = [str(self.binary or built("examples/bench_server"))]
            command += ["--port", str(port), "--workers", str(self.workers), "--heartbeat", "60"]
            if transport in ("tls", "wss"):
                certificate, key = certificate_files(scratch)
                command += ["--tls-cert", str(certificate), "--tls-key", str(key)]
            return command
        return [str(BENCH / "peers" / self.name / "start"), transport, str(port)]

    def serves(self, transport: str) -> bool:
        return self.role == "ours" or transport in ("tcp", "ws")


FLOOR = Server("floor", "floor")
FLOOR_2 = Server("floor-2", "floor", workers=2)
OURS = Server("shaddock", "ours")
OURS_2 = Server("shaddock-2", "ours", workers=2)
PEERS = [Server(name, "peer") for name in ("nano", "pitaya", "pinus", "pomelo")]


def build(wanted: list[Server]) -> list[Server]:
    """Builds the load tester and the servers. Returns those that can be measured."""
    cargo = ["cargo", "build", "--release", "--quiet"]
    run([*cargo, "-p", "shaddock-bench", "-p", "shaddock-floor"])
    if any(server.role == "ours" for server in wanted):
        if BENCH_SERVER.exists():
            run([*cargo, "-p", "shaddock", "--example", "bench_server"])
        else:
            print(f"no {BENCH_SERVER.relative_to(ROOT)}: measuring without shaddock", flush=True)
            wanted = [server for server in wanted if server.role != "ours"]
    for server in wanted:
        if server.role == "peer":
            run([str(BENCH / "peers" / server.name / "install")])
    return wanted


def run(command: list[str]) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def certificate_files(scratch: Path) -> tuple[Path, Path]:
    """A certificate of our own for 127.0.0.1, made once."""
    certificate, key = scratch / "certificate.pem", scratch / "key.pem"
    if not certificate.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class Running:
    """A server under way. A fresh one for each run, so that no run inherits another's memory."""

    _ports = 0

    def __init__(self, server: Server, transport: str, cpus: str | None, scratch: Path):
        Running._ports += 1
        self.port = FIRST_PORT + 2 * (Running._ports % 1000)
        self.url = f"{transport}://127.0.0.1:{self.port}"
        command = server.command(transport, self.port, scratch)
        if cpus is not None:
            command = ["taskset", "-c", cpus, *command]
        self.log = open(scratch / "server.log", "w+b")
        own_pid = server.role != "peer"
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_for_port()
            self.pid = self.process.pid if own_pid else self._told_pid()
        except Exception:
            self.stop()
            raise

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self._output()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"nothing listens on port {self.port}: {self._output()}") from None
                time.sleep(0.05)

    def _told_pid(self) -> int:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            for line in self._output().splitlines():
                if line.startswith("pid "):
                    return int(line.split()[1])
            time.sleep(0.05)
        raise RuntimeError(f"no `pid` line: {self._output()}")

    def _output(self) -> str:
        return Path(self.log.name).read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        # The group is our own: it was started in a session of its own.
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(timeout=3)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        self.log.close()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
