"""The one time axis of a service: traffic, errors, latency, drift and releases above each other.

Gives a Plotly figure as plain JSON. Colours are tokens such as "$accent", which the page's script
replaces by the stylesheet's value, so that one figure fits light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from doorstep.console.story import Lane, Mark
from doorstep.console.words import is_known
from doorstep.core.instant import SECOND_US, Instant
from doorstep.journal.surface import Traffic, TrafficBucket

LABEL_MAX = 80
LANE_NAME_MAX = 14
_ROWS = {"marks": (0.93, 1.0), "traffic": (0.62, 0.90), "errors": (0.46, 0.56)}
_LATENCY_AND_DRIFT = {"latency": (0.27, 0.40), "drift": (0.0, 0.20)}
_LANE_TEXT_SHARE = 0.06
"""A lane narrower than this part of the axis has no room for its words; hovering shows them."""
WORDS = {"errors": "errors", "rescued": "failed, another answered"}
_SYMBOLS = {
    "start": "triangle-right",
    "advance": "line-ns-open",
    "rollback": "square",
    "finish": "circle",
    "promote": "circle",
    "pause": "line-ns-open",
    "resume": "line-ns-open",
    "inconclusive": "diamond-open",
    "kill": "x",
    "revive": "circle-open",
}
_BAD = ("rollback", "kill")


def figure(
    traffic: Traffic,
    marks: Sequence[Mark],
    lanes: Sequence[Lane],
    champion: int | None,
    promise_ms_p99: float | None,
) -> dict[str, Any]:
    """The figure. Buckets without traffic are zero requests, and a gap in errors and latency."""
    slots = _slots(traffic)
    by_version: dict[int, dict[Instant, TrafficBucket]] = {}
    for bucket in traffic.buckets:
        by_version.setdefault(bucket.version, {})[bucket.at] = bucket
    order = sorted(by_version, key=lambda number: (number != champion, number))
    colours = series_colours(order, champion)
    data = [_traffic_bars(traffic, slots, number, by_version, colours) for number in order]
    data += [
        _share_bars(name, slots, traffic, colour)
        for name, colour in (("errors", "$bad"), ("rescued", "$heat-2"))
    ]
    data += [_latency_line(traffic, slots, number, by_version, colours) for number in order]
    if lanes:
        data.append(_drift_bars(lanes, (traffic.until - traffic.since) * _LANE_TEXT_SHARE))
    if marks:
        data.append(_mark_points(marks))
    return {"data": data, "layout": _layout(traffic, marks, lanes, promise_ms_p99)}


def series_colours(order: Sequence[int], champion: int | None) -> dict[int, str]:
    """The champion in the neutral tone, the newest other version in the accent, the rest paler."""
    others = sorted((number for number in order if number != champion), reverse=True)
    tokens = ("$accent", "$series-2", "$series-3", "$series-4")
    found = {number: tokens[min(place, 3)] for place, number in enumerate(others)}
    if champion is not None:
        found[champion] = "$series-1"
    return found


def version_name(service: str, number: int) -> str:
    """0 is a declared constant answer, -1 an error: see `PredictionMeta`."""
    return {0: "fallback answer", -1: "nobody (error)"}.get(number, f"{service}@{number}")


def _slots(traffic: Traffic) -> list[Instant]:
    width = max(1, traffic.bucket_s) * SECOND_US
    first = min([traffic.since, *(one.at for one in traffic.buckets)])
    if traffic.buckets:
        first = traffic.buckets[0].at - (traffic.buckets[0].at - first) // width * width
    return list(range(first, traffic.until, width))[:2000]


def _ms(at: Instant) -> int:
    return at // 1000


def _escape(text: str) -> str:
    """Plotly reads a few tags in its labels; a name from outside is never one of them."""
    short = text if len(text) <= LABEL_MAX else text[:LABEL_MAX] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _label(column: str) -> str:
    return _escape(column if len(column) <= LANE_NAME_MAX else column[: LANE_NAME_MAX - 1] + "…")


def _traffic_bars(
    traffic: Traffic,
    slots: Sequence[Instant],
    number: int,
    by_version: dict[int, dict[Instant, TrafficBucket]],
    colours: dict[int, str],
) -> dict[str, Any]:
    minutes = max(1, traffic.bucket_s) / 60
    found = by_version[number]
    return {
        "type": "bar",
        "name": _escape(version_name(traffic.service, number)),
        "x": [_ms(at) for at in slots],
        "y": [round(found[at].requests / minutes, 2) if at in found else 0 for at in slots],
        "width": traffic.bucket_s * 1000,
        "offset": 0,
        "marker": {"color": colours.get(number, "$series-4"), "line": {"width": 0}},
        "yaxis": "y2",
        "hovertemplate": "%{y:,.0f} / min",
    }


def _share_bars(
    name: str, slots: Sequence[Instant], traffic: Traffic, colour: str
) -> dict[str, Any]:
    """The count `name` of all versions as a share of all requests."""
    sums: dict[Instant, tuple[int, int]] = {}
    for bucket in traffic.buckets:
        counted, requests = sums.get(bucket.at, (0, 0))
        sums[bucket.at] = (counted + getattr(bucket, name), requests + bucket.requests)
    shares = [
        round(sums[at][0] / sums[at][1] * 100, 4) if at in sums and sums[at][1] else None
        for at in slots
    ]
    return {
        "type": "bar",
        "name": WORDS[name],
        "x": [_ms(at) for at in slots],
        "y": shares,
        "width": traffic.bucket_s * 1000,
        "offset": 0,
        "marker": {"color": colour, "line": {"width": 0}},
        "yaxis": "y3",
        "hovertemplate": "%{y:.2f} %",
    }


def _latency_line(
    traffic: Traffic,
    slots: Sequence[Instant],
    number: int,
    by_version: dict[int, dict[Instant, TrafficBucket]],
    colours: dict[int, str],
) -> dict[str, Any]:
    found = by_version[number]
    points = [
        (at + edge, found[at].latency_ms_p99 if at in found else None)
        for at in slots
        for edge in ((0, max(1, traffic.bucket_s) * SECOND_US) if at in found else (0,))
    ]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _escape(f"{version_name(traffic.service, number)} p99"),
        "x": [_ms(at) for at, _ in points],
        "y": [_finite(one) for _, one in points],
        "line": {"color": colours.get(number, "$series-4"), "width": 1.5},
        "yaxis": "y4",
        "hovertemplate": "%{y:.1f} ms",
        "connectgaps": False,
    }


def _finite(value: float | None) -> float | None:
    return value if is_known(value) else None


def _drift_bars(lanes: Sequence[Lane], room: float) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": "drift",
        "base": [_ms(lane.since) for lane in lanes],
        "x": [max(1, _ms(lane.until) - _ms(lane.since)) for lane in lanes],
        "y": [lane.column for lane in lanes],
        "marker": {"color": [_heat(lane.shift_sd) for lane in lanes], "line": {"width": 0}},
        "text": [_shift_text(lane, room) for lane in lanes],
        "constraintext": "none",
        "textangle": 0,
        "textposition": "inside",
        "insidetextanchor": "end",
        "textfont": {"color": "$ink", "size": 11},
        "hovertext": [_lane_words(lane) for lane in lanes],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "width": 0.7,
        "yaxis": "y5",
    }


def _heat(shift_sd: float | None) -> str:
    """Three tones: a small shift is under 0.2 standard deviations, a large one from 0.5 on."""
    size = shift_sd or 0.0
    return "$heat-1" if size < 0.2 else "$heat-2" if size < 0.5 else "$heat-3"


def _lane_words(lane: Lane) -> str:
    size = f", {lane.shift_sd:.2f} sd" if lane.shift_sd is not None else ""
    return _escape(f"{lane.column} differs{size}")


def _shift_text(lane: Lane, room: float) -> str:
    wide = lane.until - lane.since >= room
    return f"{lane.shift_sd:.2f} sd" if lane.shift_sd is not None and wide else ""


def _mark_points(marks: Sequence[Mark]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "release",
        "x": [_ms(mark.at) for mark in marks],
        "y": [0] * len(marks),
        "marker": {
            "symbol": [_SYMBOLS[mark.action] for mark in marks],
            "size": 8,
            "color": ["$bad" if mark.action in _BAD else "$ink" for mark in marks],
            "line": {"width": 1.5, "color": "$ink"},
        },
        "hovertext": [
            _escape(f"{mark.text}: {mark.reason}" if mark.reason else mark.text) for mark in marks
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "yaxis": "y",
    }


def _layout(
    traffic: Traffic,
    marks: Sequence[Mark],
    lanes: Sequence[Lane],
    promise_ms_p99: float | None,
) -> dict[str, Any]:
    rows = {**_ROWS, **_LATENCY_AND_DRIFT}
    quiet = {"zeroline": False, "fixedrange": True, "automargin": False}
    scale = {**quiet, "rangemode": "tozero", "nticks": 4, "gridcolor": "$line", "showline": False}
    columns = list(dict.fromkeys(lane.column for lane in reversed(lanes)))
    return {
        "height": 500,
        "margin": {"l": 96, "r": 12, "t": 24, "b": 32},
        "barmode": "stack",
        "bargap": 0,
        "showlegend": False,
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": {
            "type": "date",
            "range": [_ms(traffic.since), _ms(traffic.until)],
            "gridcolor": "$line",
            "showgrid": True,
            "zeroline": False,
            "anchor": "free",
            "position": 0,
            "hoverformat": "%a %d %b %H:%M UTC",
        },
        "yaxis": {**quiet, "domain": rows["marks"], "visible": False, "range": [-1, 1]},
        "yaxis2": {**scale, "domain": rows["traffic"], "tickformat": ",.2~f"},
        "yaxis3": {**scale, "domain": rows["errors"], "ticksuffix": " %", "nticks": 3},
        "yaxis4": {**scale, "domain": rows["latency"], "ticksuffix": " ms", "nticks": 3},
        "yaxis5": {
            **quiet,
            "domain": rows["drift"],
            "type": "category",
            "showgrid": False,
            "categoryorder": "array",
            "categoryarray": columns,
            "tickmode": "array",
            "tickvals": columns,
            "ticktext": [_label(one) for one in columns],
            "showticklabels": bool(lanes),
        },
        "shapes": _shapes(traffic, marks, promise_ms_p99),
        "annotations": _annotations(marks, lanes, rows, promise_ms_p99, traffic),
    }


def _shapes(
    traffic: Traffic, marks: Sequence[Mark], promise_ms_p99: float | None
) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = [
        {
            "type": "line",
            "x0": _ms(mark.at),
            "x1": _ms(mark.at),
            "yref": "paper",
            "y0": 0,
            "y1": 0.965,
            "line": {
                "width": 1,
                "color": "$bad" if mark.action in _BAD else "$line-strong",
                "dash": "solid" if mark.action in ("start", *_BAD) else "dot",
            },
            "layer": "below",
        }
        for mark in marks
    ]
    if promise_ms_p99 is not None and is_known(promise_ms_p99):
        ends = {"x0": _ms(traffic.since), "x1": _ms(traffic.until)}
        line = {"width": 1, "color": "$ink-2", "dash": "dash"}
        height = {"y0": promise_ms_p99, "y1": promise_ms_p99, "yref": "y4"}
        shapes.append({"type": "line", **ends, **height, "line": line})
    return shapes


def _annotations(
    marks: Sequence[Mark],
    lanes: Sequence[Lane],
    rows: dict[str, tuple[float, float]],
    promise_ms_p99: float | None,
    traffic: Traffic,
) -> list[dict[str, Any]]:
    drift = "drift" if lanes else "drift: no column differed from its reference"
    titles = {
        "traffic": "requests per minute, by version that answered",
        "errors": "errors (red) and failures that another version answered, share of requests",
        "latency": "latency p99",
        "drift": drift,
    }
    plain = {"showarrow": False, "xref": "paper", "yref": "paper", "xanchor": "left", "x": 0}
    found: list[dict[str, Any]] = [
        {**plain, "y": rows[name][1], "yanchor": "bottom", "text": text, "yshift": 1}
        for name, text in titles.items()
    ]
    found += _mark_labels(marks, traffic)
    if promise_ms_p99 is not None and is_known(promise_ms_p99):
        found.append(
            {
                **plain,
                "x": 1,
                "xanchor": "right",
                "yref": "y4",
                "y": promise_ms_p99,
                "yanchor": "bottom",
                "text": f"promised {promise_ms_p99:g} ms",
            }
        )
    return found


def _mark_labels(marks: Sequence[Mark], traffic: Traffic) -> list[dict[str, Any]]:
    """Starts and ends get words, unless the last words stand too close: hovering shows them all."""
    apart = (traffic.until - traffic.since) // 8
    labels: list[dict[str, Any]] = []
    last = traffic.since - apart
    for mark in marks:
        if mark.action in ("start", *_BAD, "finish", "promote") and mark.at - last >= apart:
            last = mark.at
            near_end = traffic.until - mark.at < apart
            labels.append(
                {
                    "showarrow": False,
                    "x": _ms(mark.at),
                    "y": 1.0,
                    "yref": "paper",
                    "yanchor": "bottom",
                    "xanchor": "right" if near_end else "left",
                    "xshift": 5 if near_end else -5,
                    "text": _escape(mark.text),
                    "font": {"color": "$bad" if mark.action in _BAD else "$ink"},
                }
            )
    return labels
