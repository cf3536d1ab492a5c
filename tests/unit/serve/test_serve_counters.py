"""Counters: as large as what is counted, whole for a reader, merged, and valid for Prometheus."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from doorstep.serve import counters as module
from doorstep.serve.cells import CellWriter, Counts, create_cells, read_cells, read_dead
from doorstep.serve.counters import (
    BUCKETS,
    FAMILIES,
    IN_FLIGHT,
    LATENCY_EDGES_US,
    REFUSED,
    REQUESTS,
    ROOM_BYTES,
)
from doorstep.serve.health import metrics_text

SERVICES = 2048


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "front-0.cells"
    create_cells(found)
    return found


def test_a_counter_is_known_by_its_labels(path: Path) -> None:
    writer = CellWriter(path).counters
    for reason in ("auth", "rate", "auth"):
        writer.add(REFUSED, "loans", reason)
    writer.add(REFUSED, "fraud", "auth", by=3)
    found = read_cells(path).counters
    assert found["refused", "loans", "auth"] == [2]
    assert found["refused", "loans", "rate"] == [1]
    assert found["refused", "fraud", "auth"] == [3]


@pytest.mark.parametrize(
    ("latency_us", "bucket"),
    [(0, 0), (50, 0), (51, 1), (LATENCY_EDGES_US[-1], BUCKETS - 2), (10**9, BUCKETS - 1)],
)
def test_a_latency_falls_in_the_bucket_of_its_upper_edge(
    path: Path, latency_us: int, bucket: int
) -> None:
    CellWriter(path).counters.answered("a", "1", "native", 200, latency_us)
    values = read_cells(path).counters["latency_seconds", "a"]
    assert values.index(1) == bucket
    assert values[BUCKETS] == latency_us


def test_thousands_of_services_have_their_own_rows_in_a_file_of_their_size(path: Path) -> None:
    empty = path.stat().st_size
    writer = CellWriter(path)
    for _ in range(2):
        for number in range(SERVICES):
            writer.counters.answered(f"service-{number}", "12", "native", 200, 1000)
            writer.counters.answered(f"service-{number}", "12", "oip", 503, 1000)
    found = read_cells(path).counters
    for number in (0, 63, 64, SERVICES - 1):
        name = f"service-{number}"
        assert found["requests", name, "12", "native", "2xx"] == [2]
        assert found["requests", name, "12", "oip", "5xx"] == [2]
        assert found["errors", name] == [2]
        assert sum(found["latency_seconds", name][:BUCKETS]) == 4
    assert found["counts_lost",] == [0]
    assert path.stat().st_size - empty < 2 * 1024 * SERVICES
    assert path.stat().st_blocks * 512 >= path.stat().st_size, "its room on the disk is taken"
    writer.close()
    assert read_dead(path).counters == found


def test_what_has_no_room_is_counted_as_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = CellWriter(path)
    monkeypatch.setattr(module, "ROOM_BYTES_MAX", 2 * ROOM_BYTES)
    for number in range(1000):
        writer.counters.answered(f"s{number}", "1", "native", 200, 100)
    found = read_cells(path).counters
    kept = sum(1 for name, *_ in found if name == "requests")
    assert 100 < kept < 1000
    assert found["counts_lost",][0] == 1000 - kept
    assert path.stat().st_size % ROOM_BYTES == 0


def test_a_disk_without_room_loses_counts_and_ends_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CellWriter(path)
    size = path.stat().st_size

    def full(_fd: int, _start: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(200):
        writer.counters.answered(f"s{number}", "1", "native", 200, 100)
    assert path.stat().st_size == size
    assert read_cells(path).counters["counts_lost",][0] > 0
    writer.counters.add(REQUESTS, "s0", "1", "native", "2xx")
    assert read_cells(path).counters["requests", "s0", "1", "native", "2xx"] == [2]


def test_a_gauge_ends_with_its_process_and_the_rest_stays(path: Path) -> None:
    writer = CellWriter(path)
    writer.counters.set(IN_FLIGHT, 7)
    writer.counters.set(IN_FLIGHT, 5)
    writer.counters.add(REFUSED, "a", "auth")
    assert read_cells(path).counters["requests_in_flight",] == [5]
    writer.close()
    dead = read_dead(path).counters
    assert ("requests_in_flight",) not in dead
    assert dead["refused", "a", "auth"] == [1]


def test_counts_of_several_processes_are_summed(tmp_path: Path) -> None:
    total = Counts(cells={}, counters={})
    for name in ("a", "b"):
        create_cells(tmp_path / name)
        CellWriter(tmp_path / name).counters.answered("loans", "1", "native", 200, 60)
        total.add(read_cells(tmp_path / name))
    assert total.counters["requests", "loans", "1", "native", "2xx"] == [2]
    assert total.counters["latency_seconds", "loans"][BUCKETS] == 120


def shown(counters: dict[module.Key, module.Values]) -> bytes:
    evidence = SimpleNamespace(counters=counters)
    fronts = SimpleNamespace(live=())
    node = SimpleNamespace(
        evidence=evidence, fronts=fronts, report=None, lease_held=False, ready=True,
        options=SimpleNamespace(home=Path("no-such-home"), node="n1"),
    )  # fmt: skip
    return metrics_text(node)  # type: ignore[arg-type]


def test_what_prometheus_reads_is_valid_and_complete(path: Path) -> None:
    writer = CellWriter(path).counters
    for latency_us in (40, 700, 10**8):
        writer.answered('lo"ans\n', "3", "native", 200, latency_us)
    writer.add(REFUSED, "", "overload")
    writer.set(IN_FLIGHT, 2)
    text = shown(read_cells(path).counters).decode()
    families = {one.name: one for one in text_string_to_metric_families(text)}
    for family in FAMILIES:
        found = families[f"doorstep_{family.name}"]
        assert (found.type, found.documentation) == (family.kind, family.about)
    names = {sample.name for one in families.values() for sample in one.samples}
    assert {"doorstep_requests_total", "doorstep_refused_total"} <= names
    assert all(name.startswith("doorstep_") for name in names)
    (requests,) = families["doorstep_requests"].samples
    assert requests.labels["service"] == 'lo"ans\n'
    histogram = families["doorstep_latency_seconds"].samples
    edges = [float(one.labels["le"]) for one in histogram if one.name.endswith("_bucket")]
    counts = [one.value for one in histogram if one.name.endswith("_bucket")]
    assert edges == sorted(edges)
    assert math.isinf(edges[-1])
    assert counts == sorted(counts)
    assert counts[-1] == 3
    (total,) = [one.value for one in histogram if one.name.endswith("_sum")]
    assert total == pytest.approx(100.00074)


def test_every_metric_keeps_to_the_conventions_of_promtool(path: Path) -> None:
    text = shown(read_cells(path).counters).decode()
    for one in text_string_to_metric_families(text):
        assert one.documentation
        assert one.type in ("counter", "gauge", "histogram")
        assert one.name == one.name.lower()
        assert not one.name.endswith(("_ms", "_us", "_total_total", "_mb"))
        assert one.type == "counter" or not one.name.endswith(("_total", "_count", "_sum"))
