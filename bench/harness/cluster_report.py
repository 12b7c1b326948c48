"""CLUSTER.md: medians, spread and ratios of bench/cluster, from a file of JSON lines."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

NAMES = {
    "bare": "bare `async-nats`",
    "hop": "client and frontend alone",
    "shaddock": "shaddock",
    "pitaya": "Pitaya (Go)",
}
LATENCY_LIMIT = 1.5
CPU_LIMIT = 2.0
PUSH_LIMIT = 2


def write(raw: Path, out: Path) -> None:
    records = [json.loads(line) for line in raw.read_text().splitlines()]
    machine = records[0]
    runs = [record for record in records if record["kind"] == "run"]
    pushes = [record["messages"] for record in records if record["kind"] == "push"]
    parts = [intro(machine, runs, raw), numbers(runs), ratios(runs, pushes), READING]
    out.write_text("\n\n".join(part.strip() for part in parts) + "\n")


def intro(machine: dict, runs: list[dict], raw: Path) -> str:
    noise = max((run["noise"] for run in runs), default=0.0)
    warning = "\n**A quick pass: short runs, for a first impression only.**\n" if machine["quick"] else ""
    return f"""# What a forwarded request costs

Written by `bench/cluster` from `raw/{raw.name}`; do not edit.
{warning}
| | |
| --- | --- |
| when | {machine["date"]}, commit {machine["commit"]} |
| machine | {machine["cores"]} cores of {machine["cpu"]}, {machine["memory_gib"]} GiB, {"a virtual machine" if machine["virtual"] else "not virtual"} |
| system | Linux {machine["kernel"]}, load at the start {machine["load_before"]:.2f} |
| versions | {machine["rustc"]}; {machine["go"]}; {machine["nats"]}; {machine["etcd"]} |
| rounds | {machine["rounds"]}; each in turn with fresh processes, then all again |
| noise | processor time of others: at most {noise:.0%} of a core in a run |

Medians of the rounds, with the lowest and the highest behind them. All bodies have 64 bytes. CPU is user and system time of both processes for
one request: the two that talk over NATS (`bare`), or frontend and backend. NATS' own server and the load tester are not in it."""


def values(runs: list[dict], name: str, in_flight: int, key: str) -> list[float]:
    """One for each round; a run with faults counts for nothing."""
    return [
        run[key]
        for run in runs
        if run["contender"] == name and run["in_flight"] == in_flight and not run["faults"]
    ]


def cell(numbers: list[float], digits: int = 1) -> str:
    if not numbers:
        return "–"
    middle, low, high = statistics.median(numbers), min(numbers), max(numbers)
    spread = f" ({low:,.{digits}f}–{high:,.{digits}f})" if len(numbers) > 1 else ""
    return f"**{middle:,.{digits}f}**{spread}"


def numbers(runs: list[dict]) -> str:
    columns = [("p50, 1 in flight, us", 1, "p50_us"), ("p50, 64 in flight, us", 64, "p50_us")]
    columns += [("CPU, 1 in flight, us", 1, "cpu_us"), ("CPU, 64 in flight, us", 64, "cpu_us")]
    columns += [("requests/s, 64 in flight", 64, "per_second")]
    lines = ["## Numbers", "", "| | " + " | ".join(title for title, *_ in columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for name, title in NAMES.items():
        cells = [cell(values(runs, name, load, key), 0 if key == "per_second" else 1) for _, load, key in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(runs: list[dict], name: str, in_flight: int, key: str, without_hop: bool) -> list[float]:
    ours, bare = (values(runs, who, in_flight, key) for who in (name, "bare"))
    hops = values(runs, "hop", in_flight, key) if without_hop else [0.0] * len(ours)
    return [(whole - hop) / floor for whole, hop, floor in zip(ours, hops, bare)]


FORWARD_MORE = 1.03
ROOM_LESS = 0.6


def beside(raw: Path) -> str:
    """A table of one run of two commits. Ratios are of one round; the median is over rounds."""
    records = [json.loads(line) for line in raw.read_text().splitlines()[1:]]
    lines = ["| | before | after | ratio | wanted |", "| --- | ---: | ---: | ---: | ---: |"]
    of_runs = [(f"CPU of a forwarded request, {n} in flight, us", n, "cpu_us", FORWARD_MORE) for n in (1, 64)]
    of_runs += [(f"p50 of a forwarded request, {n} in flight, us", n, "p50_us", None) for n in (1, 64)]
    of_room = [("CPU of a push to 5,000 members on two frontends, ms", None, "cpu_ms", ROOM_LESS)]
    of_room += [("bytes to NATS for such a push", None, "bytes", None)]
    for title, in_flight, key, limit in of_runs + of_room:
        before, after = (
            {
                r["round"]: r[key]
                for r in records
                if key in r and r["contender"] == name and r.get("in_flight") == in_flight and not r["faults"]
            }
            for name in ("before", "after")
        )
        # A round with a fault on one side is in no ratio.
        ratio = [after[n] / before[n] for n in before if n in after and before[n]]
        verdict = ""
        if limit is not None and ratio:
            verdict = f"{'yes' if statistics.median(ratio) <= limit else '**no**'} ≤ {limit}"
        lines.append(f"| {title} | {cell(list(before.values()))} | {cell(list(after.values()))} | {cell(ratio, 3)} | {verdict} |")
    return "\n".join(lines)


def ratios(runs: list[dict], pushes: list[int]) -> str:
    lines = ["## Against the floor", "", "| | shaddock | wanted | Pitaya (Go) |", "| --- | ---: | ---: | ---: |"]
    rows = [
        ("p50 at 1 in flight, as the client sees it", 1, "p50_us", False, LATENCY_LIMIT),
        ("p50 at 1 in flight, without the client's hop", 1, "p50_us", True, LATENCY_LIMIT),
        ("CPU at 64 in flight, all of both processes", 64, "cpu_us", False, CPU_LIMIT),
        ("CPU at 64 in flight, without what the client's hop costs", 64, "cpu_us", True, CPU_LIMIT),
    ]
    for title, load, key, without_hop, limit in rows:
        ours, theirs = (ratio(runs, name, load, key, without_hop) for name in ("shaddock", "pitaya"))
        verdict = ("" if not ours else " yes" if statistics.median(ours) <= limit else " **no**") + " |"
        lines.append(f"| {title} | {cell(ours, 2)}{verdict} ≤ {limit} | {cell(theirs, 2)} |")
    for count in pushes:
        verdict = "yes" if count == PUSH_LIMIT else "**no**"
        lines.append(f"| NATS messages of a push to 1,000 users on two frontends | {count} {verdict} | = {PUSH_LIMIT} | 1,000 |")
    return "\n".join(lines)


READING = """## How to read it

`bare` is `Client::request` of the crate `async-nats` in one process and a loop over a subscription that publishes the body back in another, both
on tokio's default runtime: four socket hops. A forwarded request has the same four, and two more between client and frontend. `client and
frontend alone` is what these two cost: the same load tester asks a frontend that answers by itself. So the row *as the client sees it* compares
six hops with four, and the row *without the client's hop* four with four. The issue's limits are meant for a forwarded request; both are given.

A ratio is of one round, so that a slow minute of the machine cancels out; the median is over rounds."""
