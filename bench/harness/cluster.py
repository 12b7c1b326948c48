"""A forwarded request: the floor, our servers and Pitaya's, each as two processes on one NATS and one etcd."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, TextIO

from .servers import BENCH, ROOT, run, target_dir

# What is measured, in this order. `hop` is a client's request that is answered by the frontend itself.
CONTENDERS = ["bare", "hop", "shaddock", "pitaya"]
# Requests under way at the same time.
LOADS = [1, 64]
START_TIMEOUT = 30.0
SUBJECT = "bench.pair"


# A room, with members on two frontends.
ROOM = 5000
PUSHES = 100
ROOM_TIMEOUT = 180.0


def build_ours(root: Path) -> Path:
    """Builds what takes part of ours in this checkout; returns where the programs are."""
    target = target_dir() if root == ROOT else root / "target"
    example = root / "crates/shaddock/examples/cluster_room.rs"
    if root != ROOT and not example.exists():
        # A commit that does not have it gets ours, in its own words.
        source = (ROOT / "crates/shaddock/examples/cluster_room.rs").read_text()
        if "pub async fn join(" not in (root / "crates/shaddock/src/channel/mod.rs").read_text():
            source = source.replace(".join(&session).await?;", ".join(&session);")
        if "pub fn handle<" not in (root / "crates/shaddock/src/app/mod.rs").read_text():
            source = source.replace("app.handle(", "app.route(")
        example.write_text(source)
    cargo = ["cargo", "build", "--release", "--quiet", "--target-dir", str(target)]
    for what in (["-p", "shaddock-cli"], ["-p", "shaddock", "--features", "nats", "--example", "cluster_backend", "--example", "cluster_room"]):
        subprocess.run([*cargo, *what], cwd=root, check=True)
    return target / "release"


def build(wanted: list[str]) -> None:
    cargo = ["cargo", "build", "--release", "--quiet"]
    run([*cargo, "-p", "shaddock-cli", "-p", "shaddock-bench"])
    run([*cargo, "-p", "shaddock-cluster", "--features", "nats", "--example", "nats_pair"])
    run([*cargo, "-p", "shaddock", "--features", "nats", "--example", "bench_server", "--example", "cluster_backend"])
    if "pitaya" in wanted:
        run([str(BENCH / "peers/pitaya-cluster/install")])


def versions() -> dict:
    def said(program: str, *flags: str) -> str:
        text = subprocess.run([find(program), *flags], capture_output=True, text=True, check=True).stdout
        return text.strip().splitlines()[0]

    return {"nats": said("nats-server", "--version"), "etcd": said("etcd", "--version")}


def find(program: str) -> str:
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/bin")
    if path is None:
        raise SystemExit(f"{program} is missing: apt-get install -y nats-server etcd-server")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def release(name: str) -> str:
    return str(target_dir() / "release" / name)


@dataclass
class Processes:
    """Processes that end together, youngest first."""

    directory: Path
    all: list[subprocess.Popen] = field(default_factory=list)

    def start(self, command: list[str], ready: Callable[[str], bool]) -> subprocess.Popen:
        """Starts one and waits until `ready` is true of what it has printed."""
        log = self.directory / f"{len(self.all)}-{Path(command[0]).name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        self.all.append(process)
        deadline = time.monotonic() + START_TIMEOUT
        while not ready(log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        return process

    def stop(self) -> None:
        for process in reversed(self.all):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    process.send_signal(sign)
                    try:
                        process.wait(timeout=5)
                    except subprocess.TimeoutExpired:
                        continue
        self.all.clear()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Backing:
    """One NATS and one etcd for all that is measured."""

    def __init__(self, processes: Processes):
        self.nats_port, self.etcd_port, peer_port = free_port(), free_port(), free_port()
        self.monitor = free_port()
        nats = [find("nats-server"), "-a", "127.0.0.1", "-p", str(self.nats_port), "-m", str(self.monitor)]
        self.nats = processes.start(nats, lambda _: is_open(self.nats_port))
        urls = (f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{peer_port}")
        etcd = [find("etcd"), "--data-dir", str(processes.directory / "etcd"), "--unsafe-no-fsync"]
        etcd += ["--listen-client-urls", urls[0], "--advertise-client-urls", urls[0]]
        etcd += ["--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1]]
        etcd += ["--initial-cluster", f"default={urls[1]}", "--log-level", "error"]
        self.etcd = processes.start(etcd, lambda _: is_healthy(urls[0]))

    @property
    def nats_url(self) -> str:
        return f"nats://127.0.0.1:{self.nats_port}"


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return b"true" in answer.read()
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, as the scheduler counts it."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            nanoseconds += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return nanoseconds / 1e9


def machine_seconds() -> float:
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:]]
    # user nice system irq softirq steal
    return sum(ticks[i] for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


@dataclass
class Pair:
    """What answers, and how it is asked: a function of requests in flight and seconds."""

    pids: list[int]
    command: Callable[[int, float], list[str]]


def bench_echo(port: int, pids: list[int], *flags: str) -> Callable[[int, float], list[str]]:
    def command(in_flight: int, seconds: float) -> list[str]:
        words = [release("shaddock-bench"), "echo", f"tcp://127.0.0.1:{port}", "-c", str(in_flight)]
        words += ["--in-flight", "1", "--warmup", "500ms", "--duration", f"{seconds}s", "--json", "--quiet"]
        return [*words, *flags, *(word for pid in pids for word in ("--pid", str(pid)))]

    return command


def start(name: str, backing: Backing, processes: Processes) -> Pair:
    port = free_port()
    if name == "bare":
        program = release("examples/nats_pair")
        answer = processes.start([program, "answer", backing.nats_url, SUBJECT], lambda out: "ready" in out)
        ask = [program, "ask", backing.nats_url, SUBJECT]
        return Pair([answer.pid], lambda n, seconds: [*ask, str(n), str(seconds), str(answer.pid)])
    if name == "hop":
        server = [release("examples/bench_server"), "--port", str(port), "--heartbeat", "60"]
        pids = [processes.start(server, lambda _: is_open(port)).pid]
        return Pair(pids, bench_echo(port, pids))
    if name == "shaddock":
        return ours(target_dir() / "release", port, backing, processes)
    program = str(BENCH / "peers/pitaya-cluster/start")
    flags = [backing.nats_url, f"127.0.0.1:{backing.etcd_port}"]
    back_pid = processes.start([program, *flags, "back"], lambda out: "ready" in out).pid
    front_pid = processes.start([program, *flags, "front", str(port)], lambda out: "ready" in out and is_open(port)).pid
    # The frontend reads the list when it starts, but asks for the backend's entry in the background.
    time.sleep(1)
    return Pair([front_pid, back_pid], bench_echo(port, [front_pid, back_pid], "--dialect", "pitaya"))


def settings_of(port: int, backing: Backing, processes: Processes) -> str:
    settings = processes.directory / f"cluster-{port}.toml"
    settings.write_text(
        f'[server]\nserver_type = "connector"\n[listen]\naddress = "127.0.0.1:{port}"\n'
        f'[protocol]\nheartbeat = "60s"\n[log]\nfilter = "warn"\n[admin]\naddress = ""\n'
        f'[cluster]\nmode = "nats"\nnats_urls = ["{backing.nats_url}"]\n'
        f'etcd_endpoints = ["127.0.0.1:{backing.etcd_port}"]\n'
    )
    return str(settings)


def ours(programs: Path, port: int, backing: Backing, processes: Processes) -> Pair:
    """A frontend and a backend of ours, from the programs of one commit."""
    settings = settings_of(port, backing, processes)
    before = listed(backing)
    back = [str(programs / "examples/cluster_backend"), settings]
    back_pid = processes.start(back, lambda _: listed(backing) > before).pid
    front = [str(programs / "shaddock"), "serve", "--config", settings]
    front_pid = processes.start(front, lambda _: is_open(port)).pid
    return Pair([front_pid, back_pid], bench_echo(port, [front_pid, back_pid]))


def room(programs: Path, backing: Backing, processes: Processes) -> dict:
    """Pushes to a room of members on two frontends. Processor time of both frontends and the backend for one push."""
    ports = [free_port(), free_port()]
    settings = [settings_of(port, backing, processes) for port in ports]
    before = listed(backing)
    back = [str(programs / "examples/cluster_room"), settings[0], str(ROOM), str(PUSHES)]
    back = processes.start(back, lambda _: listed(backing) > before)
    said = sorted(processes.directory.glob("*-cluster_room.log"))[-1]
    fronts = []
    for port, file in zip(ports, settings):
        command = [str(programs / "shaddock"), "serve", "--config", file]
        fronts.append(processes.start(command, lambda _, port=port: is_open(port)))
    for port in ports:
        load = [release("shaddock-bench"), "mix", f"tcp://127.0.0.1:{port}", "-c", str(ROOM // 2), "--quiet"]
        processes.start([*load, "--script", "bind, wait 600s", "--duration", "600s"], lambda _: True)

    def wait_for(word: str) -> str:
        deadline = time.monotonic() + ROOM_TIMEOUT
        while word not in (lines := said.read_text().splitlines()):
            if time.monotonic() > deadline or back.poll() is not None:
                raise RuntimeError(f"the room did not say `{word}`: {said.read_text()[-1000:]}")
            time.sleep(0.01)
        return "\n".join(lines)

    pids = [back.pid, *(front.pid for front in fronts)]
    wait_for("go")
    begin, (_, bytes_before) = sum(map(cpu_seconds, pids)), traffic(backing)
    faults = wait_for("pushed").count("failed")
    # What the last push makes is part of it.
    time.sleep(0.5)
    cost, (_, bytes_after) = sum(map(cpu_seconds, pids)) - begin, traffic(backing)
    return {
        "cpu_ms": cost * 1e3 / PUSHES,
        "bytes": (bytes_after - bytes_before) / PUSHES,
        "faults": faults,
    }


def traffic(backing: Backing) -> tuple[int, int]:
    """Messages and bytes that NATS was sent."""
    with urllib.request.urlopen(f"http://127.0.0.1:{backing.monitor}/varz", timeout=5) as answer:
        varz = json.load(answer)
    return varz["in_msgs"], varz["in_bytes"]


def listed(backing: Backing) -> int:
    """How many connections NATS has: a server that is ready has one."""
    with urllib.request.urlopen(f"http://127.0.0.1:{backing.monitor}/varz", timeout=5) as answer:
        return json.load(answer)["connections"]


def one_run(pair: Pair, backing: Backing, in_flight: int, seconds: float) -> dict:
    """Asks for a while. `noise` is what others than those who take part took, as a part of the time."""
    known = [*pair.pids, backing.nats.pid, backing.etcd.pid]
    before = machine_seconds(), sum(map(cpu_seconds, known)), children(), time.monotonic()
    done = subprocess.run(pair.command(in_flight, seconds), capture_output=True, text=True, timeout=120)
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"{done.stderr.strip()} {done.stdout[:500]}")
    after = machine_seconds(), sum(map(cpu_seconds, known)), children(), time.monotonic()
    busy, servers, load, wall = (late - early for early, late in zip(before, after))
    result = json.loads(done.stdout)
    cost = result["cpu_s"] if "cpu_s" in result else result["server"]["cpu_s"]
    faults = sum(result.get(fault, 0) for fault in ("wrong", "lost", "repeated", "failed", "closed"))
    return {
        "messages": result["messages"],
        "p50_us": result["latency"]["p50"],
        "p99_us": result["latency"]["p99"],
        "cpu_us": cost * 1e6 / max(result["messages"], 1),
        "per_second": result["messages"] / result["seconds"],
        "faults": faults,
        "noise": max(busy - servers - load, 0.0) / wall,
    }


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(wanted: list[str], rounds: int, seconds: float, out: TextIO) -> None:
    """Each contender in turn, fresh processes, then all of it again: a slow minute of the machine hits all alike."""

    def put(record: dict) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()
        print(record, flush=True)

    with tempfile.TemporaryDirectory() as scratch, Processes(Path(scratch)) as base:
        backing = Backing(base)
        for number in range(rounds):
            shift = number % max(len(wanted), 1)
            for name in wanted[shift:] + wanted[:shift]:
                with tempfile.TemporaryDirectory() as own, Processes(Path(own)) as processes:
                    pair = start(name, backing, processes)
                    for in_flight in LOADS:
                        record = {"kind": "run", "round": number, "contender": name, "in_flight": in_flight}
                        put(record | one_run(pair, backing, in_flight, seconds))
    put({"kind": "push", "messages": count_push_messages()})


def measure_beside(before: Path, rounds: int, seconds: float, out: TextIO) -> None:
    """Ours of another commit and ours of this one, in turn, in one run: a forwarded request, and a push to a room."""

    def put(record: dict) -> None:
        out.write(json.dumps(record) + "\n")
        out.flush()
        print(record, flush=True)

    programs = {"before": before, "after": target_dir() / "release"}
    with tempfile.TemporaryDirectory() as scratch, Processes(Path(scratch)) as base:
        backing = Backing(base)
        for number in range(rounds):
            names = list(programs) if number % 2 == 0 else list(reversed(programs))
            for name in names:
                with tempfile.TemporaryDirectory() as own, Processes(Path(own)) as processes:
                    pair = ours(programs[name], free_port(), backing, processes)
                    for in_flight in LOADS:
                        record = {"kind": "run", "round": number, "contender": name, "in_flight": in_flight}
                        put(record | one_run(pair, backing, in_flight, seconds))
                with tempfile.TemporaryDirectory() as own, Processes(Path(own)) as processes:
                    put({"kind": "room", "round": number, "contender": name} | room(programs[name], backing, processes))


def count_push_messages() -> int:
    """The test that counts at NATS; its name says of what."""
    command = ["cargo", "test", "--quiet", "-p", "shaddock-cluster", "--features", "nats", "--test", "messages"]
    command += ["--", "--nocapture", "a_push_to_a_thousand_users_is_one_message_for_each_frontend"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    found = re.search(r"(\d+) NATS messages", done.stdout + done.stderr)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"the test of the pushes failed: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    return int(found[1])
