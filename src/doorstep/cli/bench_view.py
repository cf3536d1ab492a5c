"""What `doorstep bench` prints: a table, a chart, the verdict, and the arithmetic of sizes."""

from __future__ import annotations

import math
from pathlib import Path

from doorstep.cli.benching import Bench
from doorstep.cli.output import percent, table
from doorstep.core.condition import Quantity, parse_condition
from doorstep.serve.capacity import Step, broken_by, keeps_up

HEIGHT, WIDTH = 8, 8
GENERATOR_BUSY = 0.85
"""Of a core: beyond it the generator may have been what was slow."""
HEAD = ("offered/s", "answered/s", "p50", "p95", "p99", "p99.9 ms", "errors", "CPU ms", "")


def text(found: Bench) -> str:
    run = found.measured
    lines = [
        f"{found.service}@{found.version}: {found.sent}, {run.connections} connections, "
        f"{run.seconds:g} s a rate; {run.capacity_per_s:,.0f}/s in a closed loop",
        "",
        table(HEAD, [_row(found, one) for one in run.steps], right=range(8)),
        "",
        *chart(run.steps, promised_ms(found)),
        "",
        *sentences(found),
    ]
    return "\n".join(lines)


def _row(found: Bench, step: Step) -> tuple[str, ...]:
    return (
        f"{step.offered:,.0f}",
        f"{step.answered:,.0f}",
        *(_ms(step.latency_ms.get(one)) for one in ("p50", "p95", "p99", "p999")),
        percent(step.errors, 2),
        _ms(step.cpu_ms),
        "knee" if step == found.knee else _why_not(found, step),
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _why_not(found: Bench, step: Step) -> str:
    broken = [str(one) for one in broken_by(step, [parse_condition(one) for one in found.slo])]
    return ", ".join(f"not {one}" for one in broken) or ("" if keeps_up(step) else "falls behind")


def promised_ms(found: Bench) -> float | None:
    slo = [parse_condition(one) for one in found.slo]
    bounds = [one.right for one in slo if one.left == "p99"]
    return next((one.value for one in bounds if isinstance(one, Quantity)), None)


def chart(steps: tuple[Step, ...], promised: float | None) -> list[str]:
    """p99 over the offered rate, on a logarithmic scale; the promise is a dotted line."""
    known = [max(one.latency_ms["p99"], 1e-3) for one in steps if one.latency_ms]
    ends = [*known, promised] if promised else known
    if not known:
        return ["no request was answered, so there is nothing to draw"]
    low, high = math.log(min(ends)), math.log(max(ends))

    def level(ms: float) -> int:
        return round((HEIGHT - 1) * (math.log(max(ms, 1e-3)) - low) / ((high - low) or 1.0))

    lines = ["p99 ms"]
    for at in range(HEIGHT - 1, -1, -1):
        is_promise = promised is not None and level(promised) == at
        blank = "┄" if is_promise else " "
        marks = ["●" if s.latency_ms and level(s.latency_ms["p99"]) == at else blank for s in steps]
        named = _ms(promised if is_promise else math.exp(low + at * (high - low) / (HEIGHT - 1)))
        cells = "".join(one.center(WIDTH, blank) for one in marks)
        lines.append(f"{named:>7} ┤{cells}{' promised' if is_promise else ''}".rstrip())
    lines.append(f"{'':>8}└{'─' * WIDTH * len(steps)}")
    rates = "".join(f"{one.offered:,.0f}".center(WIDTH) for one in steps)
    return [*lines, f"{'':>9}{rates} offered/s"]


def sentences(found: Bench) -> list[str]:
    run, knee = found.measured, found.knee
    promise = f"SLO {', '.join(found.slo)}" if found.slo else "no SLO is promised; the load"
    held = f"kept up to {knee.offered:,.0f}/s (the knee)" if knee else "kept at no rate"
    lines = [f"{promise}: {held}"]
    if knee:
        bound = promised_ms(found)
        against = f"; {_ms(bound)} ms are promised" if bound else ""
        lines.append(f"p99 there: {_ms(knee.latency_ms['p99'])} ms at the client{against}")
    if found.verdict == "unclear":
        lines.append("? the lowest rate broke what a higher one kept: measure on an idle machine")
    lines.append(
        f"present traffic: {found.present_per_s:.3g}/s in the busiest minute of the last hour"
    )
    if knee and knee.cpu_ms is not None and found.cpu_loops is not None:
        lines.append(
            f"CPU per request: {knee.cpu_ms:.3g} ms of the node at the knee = "
            f"{100 * found.cpu_loops:.2g} % of the calibration ({run.calibration.cpu_ms:.1f} ms)"
        )
    lines += [one.arithmetic for one in found.sizing]
    if found.knee_there_per_s is not None:
        lines.append(
            f"these are for the machine of --calibration, with as many cores as here: its knee is "
            f"{found.knee_there_per_s:,.4g}/s, by the ratio of the calibrations"
        )
    return lines + _doubts(found)


def _doubts(found: Bench) -> list[str]:
    lines = []
    if max(one.cpu_share_generator for one in found.measured.steps) > GENERATOR_BUSY:
        lines.append("! the load generator used a whole core: the service may bear more than this")
    if any(one.cpu_ms is not None for one in found.measured.steps):
        lines.append("the load was made on the service's machine, which bears more without it")
    if found.knee and any(
        _why_not(found, s) for s in found.measured.steps if s.offered < found.knee.offered
    ):
        lines.append("! a rate below the knee was not held: measure again on an idle machine")
    if found.nodes > 1:
        lines.append(f"! {found.nodes} nodes are live; a machine above is what answered this URL")
    return lines


def write_plot(found: Bench, path: Path) -> None:
    """The figure as one HTML file that needs nothing else."""
    import plotly.graph_objects as go

    steps = [one for one in found.measured.steps if one.latency_ms]
    offered = [one.offered for one in steps]
    figure = go.Figure()
    for name in ("p50", "p95", "p99", "p999"):
        figure.add_scatter(x=offered, y=[one.latency_ms[name] for one in steps], name=name)
    bound = promised_ms(found)
    if bound:
        figure.add_hline(y=bound, line_dash="dot", annotation_text=f"promised p99 {bound:g} ms")
    if found.knee:
        figure.add_vline(x=found.knee.offered, line_dash="dash", annotation_text="knee")
    figure.update_layout(title=f"{found.service}@{found.version}: latency over offered load")
    figure.update_yaxes(type="log", title="ms, from when a request was due")
    figure.update_xaxes(title="requests per second offered")
    figure.write_html(path, include_plotlyjs=True)
