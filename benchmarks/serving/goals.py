"""What was measured, the table of it, and the goals of the data plane with their verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

DOORSTEP, BARE = "Doorstep", "bare prototype"
ISOTONIC = "Doorstep, engine, isotonic calibration"
FASTAPI = "FastAPI, pydantic, DataFrame, scikit-learn"
FASTAPI_ISOTONIC = "the same, isotonic calibration"
FASTAPI_ONNX = "FastAPI, pydantic, onnxruntime"
LITSERVE = "LitServe, scikit-learn, batched"
KSERVE = "KServe SDK, scikit-learn"
TRITON = "Triton, dynamic batching, onnxruntime"


@dataclass(frozen=True)
class Sample:
    """One turn of one server. cpu_ms: per request, by connections. rate: requests per second at 16.
    p50_ms, p99_ms: at 16 connections and half that rate; quiet_ms: the p99 at 1,000 requests per
    second, or at half that rate where it is less. rss_mb: of the process tree."""

    cpu_ms: dict[int, float]
    rate: float
    p50_ms: float
    p99_ms: float
    quiet_ms: float
    rss_mb: float


@dataclass
class Samples:
    """missing: why a server has no samples. dropped: requests lost while `disturbed` was done."""

    turns: dict[str, dict[int, Sample]] = field(default_factory=dict)
    cold_start_s: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    worker_mb: float = 0.0
    dropped: int = 0
    disturbed: str = ""

    def add(self, title: str, turn: int, sample: Sample) -> None:
        self.turns.setdefault(title, {})[turn] = sample

    def median(self, title: str, what: Callable[[Sample], float]) -> float:
        return statistics.median(map(what, self.turns[title].values()))

    def ratio(self, over: str, under: str, connections: int = 16) -> float | None:
        """The median of CPU per request of the one over that of the other, turn by turn."""
        a, b = self.turns.get(over, {}), self.turns.get(under, {})
        pairs = [(a[at].cpu_ms[connections], b[at].cpu_ms[connections]) for at in a if at in b]
        return statistics.median([one / other for one, other in pairs]) if pairs else None


@dataclass(frozen=True)
class Goal:
    """at_least: more is better. value None: not measured, `why`."""

    what: str
    value: float | None
    goal: float
    stretch: float | None = None
    unit: str = "x"
    at_least: bool = False
    why: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return f"not measured ({self.why or 'no turn'})"
        if not self._reaches(self.goal):
            return "MISSED"
        return "stretch met" if self.stretch is not None and self._reaches(self.stretch) else "met"

    def _reaches(self, limit: float) -> bool:
        assert self.value is not None
        return self.value >= limit if self.at_least else self.value <= limit

    @property
    def row(self) -> str:
        sign = ">=" if self.at_least else "<="
        value = "-" if self.value is None else f"{self.value:.2f} {self.unit}"
        limits = f"{sign} {self.goal:g}", "" if self.stretch is None else f"{sign} {self.stretch:g}"
        return f"{self.what:58} {value:>11} {limits[0]:>8} {limits[1]:>8}  {self.verdict}"


def goals_of(samples: Samples) -> list[Goal]:
    def less(what: str, peer: str, goal: float, stretch: float | None = None, at: int = 16) -> Goal:
        value, why = samples.ratio(peer, DOORSTEP, at), samples.missing.get(peer)
        return Goal(what, value, goal, stretch, at_least=True, why=why or "")

    p99_ms = samples.median(DOORSTEP, lambda one: one.quiet_ms)
    return [
        Goal("CPU per request, of the bare prototype's", samples.ratio(DOORSTEP, BARE), 2.0, 1.4),
        less("less CPU than FastAPI, DataFrame, scikit-learn", FASTAPI, 45, 65),
        less("less CPU than FastAPI, onnxruntime", FASTAPI_ONNX, 4),
        less("less CPU than LitServe", LITSERVE, 25),
        less("less CPU than KServe", KSERVE, 25),
        less("less CPU than Triton, 64 connections", TRITON, 10, 20, at=64),
        Goal(
            "isotonic calibration: less CPU than FastAPI, DataFrame",
            samples.ratio(FASTAPI_ISOTONIC, ISOTONIC), 25, 60, at_least=True,
            why=samples.missing.get(FASTAPI_ISOTONIC, ""),
        ),
        Goal("p99 at 16 connections, 1,000 requests/s", p99_ms, 5, unit="ms"),
        Goal("cold start to the first answer", samples.cold_start_s[DOORSTEP], 1.5, 0.8, "s"),
        Goal("memory of a worker", samples.worker_mb, 100, 80, "MB"),
        Goal("requests dropped by swap, rollback, new worker", samples.dropped, 0, unit=""),
    ]  # fmt: skip


def show(samples: Samples) -> int:
    """Print the table, the goals and the last line. Answers the exit code."""
    _show_servers(samples)
    goals = goals_of(samples)
    print(f"\n{'goal':58} {'measured':>11} {'goal':>8} {'stretch':>8}  verdict")
    for goal in goals:
        print(goal.row)
    print(f"\nThe last goal: {samples.disturbed}, {samples.dropped} dropped.")
    measured = [one for one in goals if one.value is not None]
    missed = [one.what for one in measured if one.verdict == "MISSED"]
    verdict = f"MISSED ({'; '.join(missed)})" if missed else "met"
    print(
        f"serving: {len(measured) - len(missed)} of {len(measured)} measured goals met, "
        f"{len(goals) - len(measured)} not measured: {verdict}"
    )
    return 1 if missed else 0


def _show_servers(samples: Samples) -> None:
    print(
        f"{'':43}{'CPU ms per request at':>23}{'requests/s':>11}{'p50':>7}{'p99':>8}"
        f"{'p99 at':>8}{'RSS':>6}{'cold':>8}{'times the CPU of':>17}\n"
        f"{'server':43}{'1':>7}{'16':>8}{'64':>8}{'at 16':>11}{'ms':>7}{'ms':>8}"
        f"{'1,000/s':>8}{'MB':>6}{'start s':>8}{'Doorstep, at 16':>16}"
    )
    for title in samples.turns:
        cpu = [samples.median(title, lambda one, at=at: one.cpu_ms[at]) for at in (1, 16, 64)]
        print(
            f"{title:43}{cpu[0]:7.3f}{cpu[1]:8.4f}{cpu[2]:8.4f}"
            f"{samples.median(title, lambda one: one.rate):11.0f}"
            f"{samples.median(title, lambda one: one.p50_ms):7.2f}"
            f"{samples.median(title, lambda one: one.p99_ms):8.2f}"
            f"{samples.median(title, lambda one: one.quiet_ms):8.2f}"
            f"{samples.median(title, lambda one: one.rss_mb):6.0f}"
            f"{samples.cold_start_s[title]:8.1f}{samples.ratio(title, DOORSTEP) or 0:15.2f}x"
        )
    for title, why in samples.missing.items():
        if why:
            print(f"{title:43}{'not measured: ' + why}")
