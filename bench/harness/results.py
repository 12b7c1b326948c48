"""RESULTS.md: medians, spread, ratios and pictures, from a file of JSON lines."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from . import plot
from .measure import NOISE_LIMIT
from .scenarios import Scenario
from .servers import FLOOR, FLOOR_2, OURS, OURS_2, PEERS, Server


@dataclass(frozen=True)
class Value:
    """A number that is compared."""

    unit: str
    of: Callable[[dict], float]
    digits: int

    def text(self, number: float) -> str:
        if self.digits == 0 or number >= 1000:
            return f"{number:,.0f}"
        return f"{number:.{self.digits}f}"


VALUES = {
    "cpu": Value("us of CPU", lambda run: run["server"]["cpu_per_message"], 2),
    "p50": Value("us", lambda run: run["latency"]["p50"], 1),
    "p99": Value("ms", lambda run: run["latency"]["p99"] / 1000, 1),
    "bytes": Value("bytes", lambda run: run["server"]["bytes_per_session"], 0),
    "suspended": Value("bytes", lambda run: suspended_bytes(run), 0),
    "back": Value("x a plain connect", lambda run: run["latency"]["p50"] / run["plain"]["p50"], 2),
}


# What must not happen in a run. (Files of older runs do not have all of them.)
FAULTS = ("wrong", "lost", "repeated", "late", "failed", "closed")


def suspended_bytes(run: dict) -> float:
    server = run["server"]
    return (server["resident_after"] - server["resident_before"]) / run["sessions"]


@dataclass(frozen=True)
class Cell:
    """All rounds of one scenario on one server."""

    median: float
    low: float
    high: float
    rounds: int
    clean: bool


def is_clean(run: dict) -> bool:
    return not any(run.get(fault, 0) for fault in FAULTS)


def read(path: Path) -> tuple[dict, list[dict]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return records[0], [record for record in records if record["kind"] == "run"]


def cell(runs: list[dict], scenario: Scenario, server: str) -> Cell | None:
    mine = [run for run in runs if run["id"] == scenario.id and run["contender"] == server and "error" not in run]
    clean = [run for run in mine if is_clean(run)]
    numbers = [VALUES[scenario.value].of(run) for run in clean or mine]
    if not numbers:
        return None
    return Cell(statistics.median(numbers), min(numbers), max(numbers), len(numbers), bool(clean))


def beside(raw: Path, rows: list[Scenario], before: Server, after: Server) -> str:
    """What two builds cost, scenario by scenario: medians, the range of the rounds, and the ratio."""
    _, runs = read(raw)
    lines = [f"| scenario | unit | {before.name} | {after.name} | ratio |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        old, new = cell(runs, row, before.name), cell(runs, row, after.name)
        if old is None or new is None:
            continue
        value = VALUES[row.value]
        told = [f"{value.text(one.median)} ({value.text(one.low)} to {value.text(one.high)})" for one in (old, new)]
        lines.append(f"| {row.id} | {value.unit} | {told[0]} | {told[1]} | {new.median / old.median:.3f} |")
    return "\n".join(lines)


def write(raw: Path, rows: list[Scenario], results: Path, quick: bool) -> None:
    """Writes the report and its pictures beside it."""
    machine, runs = read(raw)
    cells = {
        (row.id, server.name): found
        for row in rows
        for server in row.servers
        if (found := cell(runs, row, server.name))
    }
    plots = results.parent / "plots"
    plots.mkdir(exist_ok=True)
    compared = [row for row in rows if row.floor_limit or row.peer_limit or row.limit]
    parts = [
        intro(machine, runs, raw, quick),
        table(compared, cells),
        "## Against the floor and the best peer\n\n" + ratios(compared, cells),
        "## 15,000 sessions, some of which never read\n\n" + crowd(rows, runs, cells),
        "## More sessions, more workers\n\n" + scaling(cells),
        resume(cells),
        "## Pictures\n\n" + pictures(compared, cells, plots),
        failures(runs),
    ]
    results.write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n")


def intro(machine: dict, runs: list[dict], raw: Path, quick: bool) -> str:
    rounds = max((run["round"] for run in runs), default=0) + 1
    measured = [run for run in runs if "noise" in run]
    noisy = sum(run["noise"] > NOISE_LIMIT for run in measured)
    warning = "\n**A quick pass: short runs, for a first impression only.**\n" if quick else ""
    return f"""# What a message and a session cost

Written by `bench/run` from `{raw.relative_to(raw.parent.parent)}`; do not edit. How to read it is in `README.md` beside it.
{warning}
| | |
| --- | --- |
| when | {machine["date"]}, commit {machine["commit"]} |
| machine | {machine["cores"]} cores of {machine["cpu"]}, {machine["memory_gib"]} GiB, {"a virtual machine" if machine["virtual"] else "not virtual"} |
| system | Linux {machine["kernel"]}, load at the start {machine["load_before"]:.2f} |
| compilers | {machine["rustc"]}; Node.js {machine["node"]}; {machine["go"]} |
| rounds | {rounds}; each scenario on each server in turn, then all again |
| noise | server on CPU 0, load tester on CPU 1; a run in which others used more than {NOISE_LIMIT:.0%} of a core is made again, at \
most {machine["tries"] - 1} times; {noisy} of {len(measured)} runs stayed above that |

Numbers are medians of the rounds, with the lowest and the highest behind them. CPU is that of the server's process, user and system,
all threads, for one answer, delivery or session. † marks a server that gave wrong, lost or repeated answers, or lost
connections, in every round."""


def table(rows: list[Scenario], cells: dict) -> str:
    servers = [FLOOR, OURS, *PEERS]
    lines = ["## Numbers", "", "| scenario | unit | " + " | ".join(server.name for server in servers) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(servers))
    for row in rows:
        texts = [cell_text(row, cells.get((row.id, server.name))) for server in servers]
        lines.append(f"| {row.title} | {VALUES[row.value].unit} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def cell_text(row: Scenario, found: Cell | None) -> str:
    if found is None:
        return "–"
    value = VALUES[row.value]
    spread = f" ({value.text(found.low)}–{value.text(found.high)})" if found.rounds > 1 else ""
    return f"**{value.text(found.median)}**{spread}{'' if found.clean else ' †'}"


def best_peer(row: Scenario, cells: dict) -> tuple[str, Cell] | None:
    found = [(peer.name, cells[row.id, peer.name]) for peer in PEERS if (row.id, peer.name) in cells]
    clean = [entry for entry in found if entry[1].clean]
    return min(clean, key=lambda entry: entry[1].median, default=None)


def ratios(rows: list[Scenario], cells: dict) -> str:
    if not any((row.id, OURS.name) in cells for row in rows):
        return "Shaddock was not measured."
    lines = ["| scenario | against the floor | wanted | against the best peer | wanted | in itself | wanted |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        ours = cells.get((row.id, OURS.name))
        if ours is None:
            continue
        floor, peer = cells.get((row.id, FLOOR.name)), best_peer(row, cells)
        parts = [row.title]
        parts += verdict(ours.median / floor.median if floor and row.floor_limit else None, row.floor_limit, "×")
        text = verdict(ours.median / peer[1].median if peer and row.peer_limit else None, row.peer_limit, "×")
        parts += [f"{text[0]} ({peer[0]})" if peer and row.peer_limit else text[0], text[1]]
        parts += verdict(ours.median if row.limit else None, row.limit, f" {VALUES[row.value].unit}")
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines)


def verdict(number: float | None, limit: float | None, unit: str) -> list[str]:
    if number is None or limit is None:
        return ["", ""]
    text = f"{number:.2f}" if number < 100 else f"{number:,.0f}"
    wanted = f"{limit:g}" if limit < 100 else f"{limit:,.0f}"
    met = "yes" if number <= limit else "**no**"
    return [f"{text}{unit} {met}", f"≤ {wanted}{unit}"]


def crowd(rows: list[Scenario], runs: list[dict], cells: dict) -> str:
    lines = ["| server | p99, all read | p99 of the others, 1 % never read | ratio | memory, all read | memory, 1 % never read |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    both = [row for row in rows if row.id.startswith("crowd-")]
    for server in [FLOOR, OURS, *PEERS]:
        found = [cells.get((row.id, server.name)) for row in both]
        if len(found) == 2 and all(found):
            reading, stalled = found
            memory = [peak(runs, row.id, server.name) for row in both]
            lines.append(
                f"| {server.name} | {cell_text(both[0], reading)} ms | {cell_text(both[1], stalled)} ms "
                f"| {stalled.median / reading.median:.2f} | {memory[0]:.0f} MiB | {memory[1]:.0f} MiB |"
            )
    return "\n".join(lines) + "\n\nMemory is the most resident memory that was seen in the run, median of the rounds."


def peak(runs: list[dict], scenario: str, server: str) -> float:
    found = [run for run in runs if run["id"] == scenario and run["contender"] == server and "error" not in run]
    return statistics.median(run["server"]["resident_peak"] / 2**20 for run in found)


def scaling(cells: dict) -> str:
    pairs = [
        ("15,000 sessions against 1,000, shaddock", "sessions-15000", "sessions-1000", OURS.name, OURS.name, 1.15),
        ("15,000 sessions against 1,000, floor", "sessions-15000", "sessions-1000", FLOOR.name, FLOOR.name, None),
        ("two workers against one, 1 in flight", "workers-64x1", "workers-64x1", OURS_2.name, OURS.name, 1.1),
        ("the same, floor with two threads against one", "workers-64x1", "workers-64x1", FLOOR_2.name, FLOOR.name, None),
        ("two workers against one, 16 in flight", "workers-64x16", "workers-64x16", OURS_2.name, OURS.name, 1.1),
        ("the same, floor with two threads against one", "workers-64x16", "workers-64x16", FLOOR_2.name, FLOOR.name, None),
    ]
    lines = ["| cost of a message | us of CPU | against | ratio | wanted |", "| --- | ---: | ---: | ---: | ---: |"]
    for title, upper, lower, one, other, limit in pairs:
        above, below = cells.get((upper, one)), cells.get((lower, other))
        if above and below:
            ratio = above.median / below.median
            met = "" if limit is None else (" yes" if ratio <= limit else " **no**")
            wanted = "" if limit is None else f"≤ {limit}"
            lines.append(f"| {title} | {above.median:.2f} | {below.median:.2f} | {ratio:.2f}{met} | {wanted} |")
    return "\n".join(lines)


def resume(cells: dict) -> str:
    """Sessions that outlive their sockets, beside those that do not."""
    pairs = [
        ("echo, 1 in flight: resumable against not", "resume-echo-64x1", "echo-64x1-tcp", 1.15),
        ("echo, 16 in flight: resumable against not", "resume-echo-64x16", "echo-64x16-tcp", 1.15),
    ]
    lines = []
    for title, upper, lower, limit in pairs:
        above, below = cells.get((upper, OURS.name)), cells.get((lower, OURS.name))
        if above and below:
            lines.append(row_of(title, f"{above.median:.2f} us", f"{below.median:.2f} us", above.median / below.median, limit, "x"))
    above, below = cells.get(("resume-idle", OURS.name)), cells.get(("idle-tcp", OURS.name))
    if above and below:
        more = above.median - below.median
        lines.append(row_of("idle: resumable against not", f"{above.median:,.0f} bytes", f"{below.median:,.0f} bytes", more, 160, " bytes more"))
    for title, key, limit, unit in (
        ("a suspended session", "resume-suspended", 1024, " bytes"),
        ("p50 of the way back to the first message, against a plain connect with handshake", "resume-back", 1.5, "x"),
    ):
        if found := cells.get((key, OURS.name)):
            lines.append(row_of(title, cell_text_of(found), "", found.median, limit, unit))
    if storm := cells.get(("resume-storm", OURS.name)):
        faults = "nothing lost, twice or out of order" if storm.clean else "**with faults**"
        lines.append(f"| 5,000 sessions lose their sockets at once: p99 of the way back | {storm.median:,.0f} ms | | {faults} | |")
    if not lines:
        return ""
    head = ["## Sessions that outlive their sockets", "", "| | | beside | | wanted |", "| --- | ---: | ---: | ---: | ---: |"]
    return "\n".join(head + lines)


def row_of(title: str, one: str, other: str, number: float, limit: float, unit: str) -> str:
    told, wanted = verdict(number, limit, unit)
    return f"| {title} | {one} | {other} | {told} | {wanted} |"


def cell_text_of(found: Cell) -> str:
    return "" if found.clean else "†"


def pictures(rows: list[Scenario], cells: dict, plots: Path) -> str:
    parts = []
    for row in rows:
        bars = [
            plot.Bar(server.name, server.role, found.median, found.low, found.high, found.clean)
            for server in [FLOOR, OURS, *PEERS]
            if (found := cells.get((row.id, server.name)))
        ]
        if bars:
            value = VALUES[row.value]
            (plots / f"{row.id}.svg").write_text(plot.bars(row.title, value.unit, bars, value.text))
            parts.append(f"![{row.title}](plots/{row.id}.svg)")
    return "\n\n".join(parts)


def failures(runs: list[dict]) -> str:
    lines = []
    for run in runs:
        where = f"- {run['id']}, {run['contender']}, round {run['round'] + 1}: "
        if "error" in run:
            lines.append(where + run["error"].splitlines()[0][:200])
        elif not is_clean(run):
            faults = ", ".join(
                f"{run[fault]} {fault}" for fault in FAULTS if run.get(fault, 0)
            )
            lines.append(where + faults + "; first: " + (run["notes"] or ["-"])[0][:200])
    return "## What went wrong\n\n" + "\n".join(lines) if lines else ""
