"""What is measured: the table of scenarios."""

from __future__ import annotations

from dataclasses import dataclass, field

from .servers import FLOOR, FLOOR_2, OURS, OURS_2, PEERS, Server

ALL = [FLOOR, OURS, *PEERS]


@dataclass(frozen=True)
class Scenario:
    """One row. `value` names the number that is compared, see `results.VALUES`."""

    id: str
    title: str
    command: list[str]
    transport: str
    value: str
    # At most so many times the floor, and so many times the best peer. None: not asked for.
    floor_limit: float | None = None
    peer_limit: float | None = None
    # At most so much, in the unit of the value.
    limit: float | None = None
    servers: list[Server] = field(default_factory=lambda: ALL)
    # Sessions that come and go before the run, so that no run is the server's first.
    warm: int = 0
    # The server has CPU 0 and the load tester CPU 1; without it both have both.
    pinned: bool = True
    # Only in so many rounds.
    rounds: int | None = None


def scenarios(quick: bool) -> list[Scenario]:
    time = ["--warmup", "500ms", "--duration", "1500ms"] if quick else ["--warmup", "1s", "--duration", "5s"]
    pushes = "5" if quick else "20"
    rows = []
    for transport in ("tcp", "ws"):
        for in_flight, floor_limit, peer_limit in ((1, 1.3, 0.6), (16, 2.5, 0.12)):
            rows.append(
                Scenario(
                    f"echo-64x{in_flight}-{transport}",
                    f"echo, 64 connections, {in_flight} in flight, {name(transport)}",
                    ["echo", "-c", "64", "--in-flight", str(in_flight), *time],
                    transport,
                    "cpu",
                    floor_limit,
                    peer_limit,
                )
            )
    rows += [
        Scenario(
            "push-5000",
            "push to 5,000 sessions, per delivery",
            ["fanout", "-c", "5000", "--pushes", pushes],
            "tcp",
            "cpu",
            1.2,
            0.65,
            warm=2000,
        ),
        Scenario(
            "connect-stay",
            "connect + handshake + ack, 10,000 stay",
            ["churn", "-c", "10000"],
            "tcp",
            "cpu",
            1.8,
            0.9,
            warm=2000,
        ),
        Scenario(
            "connect-close",
            "connect + handshake + ack + close, 10,000",
            ["churn", "-c", "10000", "--close"],
            "tcp",
            "cpu",
            1.8,
            0.9,
            warm=2000,
        ),
        Scenario(
            "latency",
            "echo, one connection, p50 latency",
            ["echo", "-c", "1", "--in-flight", "1", *time],
            "tcp",
            "p50",
            1.15,
            1.0,
        ),
    ]
    for transport, limit in (("tcp", 1024), ("ws", 1536), ("tls", 12 * 1024)):
        rows.append(
            Scenario(
                f"idle-{transport}",
                f"idle session, {name(transport)}, 10,000 sessions",
                ["idle", "-c", "10000", "--settle", "2s"],
                transport,
                "bytes",
                None,
                None if transport == "tls" else 0.15,
                limit,
                warm=2000,
            )
        )
    rows += crowd(quick) + scaling(time) + resume(quick, time)
    return rows


def crowd(quick: bool) -> list[Scenario]:
    """15,000 sessions, one broadcast to all every second, with and without sessions that never read."""
    rows = []
    for stalled in (0, 1):
        who = "1 % never read" if stalled else "all read"
        rows.append(
            Scenario(
                f"crowd-{'stalled' if stalled else 'reading'}",
                f"15,000 sessions, one broadcast of 16 KiB a second, {who}",
                ["fanout", "-c", "15000", "--rate", "1", "--pushes", "6" if quick else "20"]
                + ["--body", "16384", "--stalled", str(stalled)],
                "tcp",
                "p99",
                servers=[FLOOR, OURS] if quick else ALL,
                warm=2000,
                # A run is 300,000 deliveries by itself.
                rounds=1,
            )
        )
    return rows


def scaling(time: list[str]) -> list[Scenario]:
    """What more sessions, and more workers, do to the cost of a message. The floor shows what the kernel does to it."""
    rows = []
    for sessions in (1_000, 15_000):
        rows.append(
            Scenario(
                f"sessions-{sessions}",
                f"echo at 20,000 per second over {sessions:,} sessions",
                ["echo", "-c", str(sessions), "--rate", "20000", *time],
                "tcp",
                "cpu",
                servers=[FLOOR, OURS],
            )
        )
    for in_flight in (1, 16):
        rows.append(
            Scenario(
                f"workers-64x{in_flight}",
                f"echo, 64 connections, {in_flight} in flight, one thread and two, nothing pinned",
                ["echo", "-c", "64", "--in-flight", str(in_flight), *time],
                "tcp",
                "cpu",
                servers=[FLOOR, FLOOR_2, OURS, OURS_2],
                pinned=False,
            )
        )
    return rows


def resume(quick: bool, time: list[str]) -> list[Scenario]:
    """Sessions that outlive their sockets: what they cost while nothing happens to them, and the way back."""
    rows = [
        Scenario(
            f"resume-echo-64x{in_flight}",
            f"echo, 64 connections, {in_flight} in flight, TCP, resumable",
            ["echo", "-c", "64", "--in-flight", str(in_flight), "--resume", *time],
            "tcp",
            "cpu",
            servers=[OURS],
        )
        for in_flight in (1, 16)
    ]
    rows += [
        Scenario(
            "resume-idle",
            "idle session, TCP, 10,000 sessions, resumable",
            ["idle", "-c", "10000", "--settle", "2s", "--resume"],
            "tcp",
            "bytes",
            servers=[OURS],
            warm=2000,
        ),
        Scenario(
            "resume-suspended",
            "suspended session, 10,000 sessions",
            ["idle", "-c", "10000", "--settle", "2s", "--suspend"],
            "tcp",
            "suspended",
            servers=[OURS],
            warm=2000,
        ),
        Scenario(
            "resume-back",
            "one session: from a new connection to the first message of the old session, against a plain connect with handshake",
            ["resume", "-c", "1", "--cuts", "100" if quick else "1000", "--away", "2ms"],
            "tcp",
            "back",
            servers=[OURS],
            warm=2000,
        ),
        Scenario(
            "resume-storm",
            "5,000 sessions lose their sockets at once and come back",
            ["resume", "-c", "5000", "--cuts", "2", "--connecting", "5000", "--no-plain"],
            "tcp",
            "p99",
            servers=[OURS],
            rounds=1,
        ),
    ]
    return rows


def name(transport: str) -> str:
    return {"tcp": "TCP", "ws": "WebSocket", "tls": "TLS"}[transport]
