"""One run after the other, in rounds, into one file of JSON lines."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TextIO

from .scenarios import Scenario
from .servers import Running, Server, load_tester

SERVER_CPU = "0"
LOAD_CPU = "1"
# Processor time of others, as a part of the measured time, above which a run is made again.
NOISE_LIMIT = 0.10
RUN_TIMEOUT = 300


def machine() -> dict:
    """What a reader needs to know of the machine."""

    def said(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "not there"

    with open("/proc/cpuinfo") as file:
        lines = file.read().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // (1024 * 1024)
    return {
        "kind": "machine",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "kernel": platform.release(),
        "virtual": virtual,
        "load_before": os.getloadavg()[0],
        "rustc": said("rustc", "--version"),
        "node": said("node", "--version"),
        "go": said("go", "version"),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
    }


def load(arguments: list[str], pinned: bool) -> dict:
    """Runs the load tester and returns its result."""
    command = [str(load_tester()), *arguments, "--json", "--quiet"]
    if pinned:
        command = ["taskset", "-c", LOAD_CPU, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def one_run(scenario: Scenario, server: Server, scratch: Path) -> dict:
    """One scenario on a fresh server."""
    pinned = scenario.pinned and (os.cpu_count() or 1) > 1
    cpus = SERVER_CPU if pinned else None
    with Running(server, scenario.transport, cpus, scratch) as running:
        insecure = ["--insecure"] if scenario.transport in ("tls", "wss") else []
        if scenario.warm:
            load(["churn", running.url, "-c", str(scenario.warm), "--close", *insecure], pinned)
        name, *flags = scenario.command
        return load([name, running.url, *flags, "--pid", str(running.pid), *insecure], pinned)


def quiet_run(scenario: Scenario, server: Server, tries: int, scratch: Path) -> dict:
    """The quietest of a few runs: the first that nobody else disturbed, or else the least disturbed."""
    runs: list[dict] = []
    for _ in range(tries):
        result = one_run(scenario, server, scratch)
        result["noise"] = result["other_cpu_s"] / max(result["seconds"], 0.001)
        runs.append(result)
        if result["noise"] <= NOISE_LIMIT or scenario.value == "bytes":
            break
    best = min(runs, key=lambda result: result["noise"])
    best["tries"] = len(runs)
    return best


def measure(
    rows: list[Scenario], servers: list[Server], rounds: int, tries: int, out: TextIO, scratch: Path
) -> None:
    """Every scenario on every server, then all of it again: a slow minute of the machine hits all alike."""
    for number in range(rounds):
        for scenario in rows:
            if scenario.rounds is not None and number >= scenario.rounds:
                continue
            here = [server for server in scenario.servers if server in servers and server.serves(scenario.transport)]
            # Another one begins in each round.
            shift = number % max(len(here), 1)
            for server in here[shift:] + here[:shift]:
                record = {"kind": "run", "round": number, "id": scenario.id, "contender": server.name}
                try:
                    record |= quiet_run(scenario, server, tries, scratch)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    record |= {"error": str(error)}
                out.write(json.dumps(record) + "\n")
                out.flush()
                print(line(number, rounds, scenario, server, record), flush=True)


def line(number: int, rounds: int, scenario: Scenario, server: Server, record: dict) -> str:
    from .results import VALUES, is_clean

    head = f"[{number + 1}/{rounds}] {scenario.id:<18} {server.name:<20}"
    if "error" in record:
        return f"{head} {record['error'][:200]}"
    value = VALUES[scenario.value]
    note = "" if is_clean(record) else "  FAULTS " + "; ".join(record["notes"][:2])
    noise = f"  others {record['noise']:.0%}" if record["noise"] > NOISE_LIMIT else ""
    return f"{head} {value.text(value.of(record)):>10} {value.unit}{noise}{note}"
