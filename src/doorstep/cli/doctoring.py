"""What `doctor` looks at: this Python, its packages, the home, the ports, the running server.

Nothing is changed and no model is loaded. Each line says pass, fail or inconclusive; what is merely
not installed, and not needed by everybody, is `absent`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from doorstep.core.errors import DoorstepError, NotFoundError
from doorstep.core.extras import install_line
from doorstep.core.instant import SystemClock, to_text
from doorstep.core.plural import plural
from doorstep.journal.away import read_place
from doorstep.journal.options import SURVIVES
from doorstep.journal.stored import read_status, read_trim
from doorstep.journal.troubles import LOST, troubles_of
from doorstep.kernel.home import open_home, resolve_home
from doorstep.kernel.mounts import find_type, read_mounts
from doorstep.kernel.server import Announcement, read_announcement
from doorstep.kernel.settings import LOOPBACK, Ports

State = Literal["pass", "fail", "inconclusive", "absent"]
MARK: dict[State, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?", "absent": "·"}
PYTHON_TESTED = ((3, 11), (3, 14))
DISK_FREE_BYTES_MIN = 1024**3
"""The journal, uploads and one bundle of the usual size fit below it; with less, soon nothing."""
CORE = ("msgspec", "numpy", "httptools", "onnxruntime", "litestar", "uvicorn", "sqlalchemy",
        "duckdb", "cryptography", "httpx")  # fmt: skip
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "sklearn": (("pandas", "scikit-learn", "skops"), "scikit-learn models"),
    "convert": (("onnx", "skl2onnx", "onnxmltools"), "conversion to ONNX, which serves faster"),
    "postgres": (("psycopg",), "a PostgreSQL database"),
    "nats": (("nats-py",), "a journal's second place in NATS"),
    "s3": (("obstore",), "a journal in an object store"),
}
RIVALS = (("xgboost", "xgboost-cpu"), ("onnxruntime", "onnxruntime-gpu"))
"""Two distributions of one module: the one installed last has overwritten the other's files."""


class Line(msgspec.Struct, frozen=True):
    """One thing that was looked at. next: the command that helps, or ""."""

    state: State
    subject: str
    text: str
    next: str = ""


def examine(home: str | None) -> list[Line]:
    """Everything, in reading order. home: as `--home`."""
    folder = resolve_home(home, os.environ, Path.cwd())
    found = [_python(), _system(), *_packages(installed), *_rivals(installed)]
    found += [*_extras(installed), *_home(folder)]
    announced = read_announcement(folder)
    return [*found, *(_ports() if announced is None else _server(announced, folder))]


def verdict_of(lines: Iterable[Line]) -> int:
    """The exit code: 1 if something fails, 4 if something is inconclusive, else 0."""
    states = {one.state for one in lines}
    return 1 if "fail" in states else 4 if "inconclusive" in states else 0


def installed(name: str) -> str:
    """The version of a distribution, "" if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> Line:
    low, high = PYTHON_TESTED
    text = f"{platform.python_version()} ({sys.executable})"
    if low <= sys.version_info[:2] <= high:
        return Line("pass", "python", text)
    tested = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
    return Line("inconclusive", "python", f"{text}; tested with {tested}")


def _system() -> Line:
    text = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cpus"
    if platform.system() in ("Linux", "Darwin"):
        return Line("pass", "system", text)
    return Line("inconclusive", "system", f"{text}; here Doorstep is a client only")


Find = Callable[[str], str]


def _packages(find: Find) -> Iterator[Line]:
    yield Line("pass", "doorstep", find("doorstep") or "from source")
    missing = [name for name in CORE if not find(name)]
    if missing:
        text = f"{', '.join(missing)} not installed"
        yield Line("fail", "packages", text, "pip install --force-reinstall doorstep")
    else:
        yield Line("pass", "packages", ", ".join(f"{name} {find(name)}" for name in CORE))
    if find("onnxruntime"):
        yield _runtime()


def _runtime() -> Line:
    """Whether onnxruntime, a compiled library, loads here: that it is installed does not say so."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        said = (str(error).splitlines() or [""])[0][:200]
        return Line("fail", "onnxruntime", f"does not load: {said}", "pip install onnxruntime")
    return Line("pass", "onnxruntime", ", ".join(onnxruntime.get_available_providers()))


def _rivals(find: Find) -> Iterator[Line]:
    for one, other in RIVALS:
        if find(one) and find(other):
            yield Line(
                "inconclusive",
                one,
                f"both {one} and {other} are installed; they overwrite each other's files",
                f"pip uninstall -y {one} {other}, then pip install the one you want",
            )


def _extras(find: Find) -> Iterator[Line]:
    for extra, (names, purpose) in EXTRAS.items():
        missing = [name for name in names if not find(name)]
        if not missing:
            yield Line("pass", extra, ", ".join(f"{name} {find(name)}" for name in names))
            continue
        text = f"{', '.join(missing)} not installed, for {purpose}"
        yield Line("absent", extra, f"{text}: {install_line(extra)}")


def _home(folder: Path) -> Iterator[Line]:
    try:
        found = open_home(folder)
        yield Line("pass", "home", f"{folder}, environment {found.environment}")
    except NotFoundError:
        yield Line("absent", "home", f"none at {folder} yet; doorstep up makes it")
    except DoorstepError as error:
        yield Line("fail", "home", f"{error.code}: {error.message}", error.hint)
        return
    yield _disk(folder)
    yield from _troubles(folder)
    yield from _store(folder)
    yield from _replica(folder)


def _troubles(folder: Path) -> Iterator[Line]:
    """What compactors cannot do by themselves. What is lost is no fault of what runs."""
    for node in sorted((folder / "journal").glob("*/")):
        for one in troubles_of(node):
            state: State = "inconclusive" if one.next == LOST else "fail"
            yield Line(state, f"files of {node.name}", one.text, one.next)


def _store(folder: Path) -> Iterator[Line]:
    place = read_place(folder)
    if place is None or not place.url:
        return
    now = SystemClock().now()
    for node in sorted((folder / "journal").glob("*/")):
        status = read_status(node)
        if status is None:
            yield Line("inconclusive", f"store of {node.name}", f"{place.url}, not tried yet")
            continue
        text = f"{status.url}, {plural(status.files, 'file')}, {status.bytes / 1e9:.2f} GB"
        if status.problem:
            # A person who asks is told at once; the node says it when it lasts.
            said = status.said(now) or status.problem
            yield Line("fail", f"store of {node.name}", f"{text}; {said}")
        else:
            waiting = plural(status.waiting_files, "file waits", "files wait")
            waits = f"; {waiting}" if status.waiting_files else ""
            yield Line("pass", f"store of {node.name}", text + waits)


def _replica(folder: Path) -> Iterator[Line]:
    for node in sorted((folder / "journal").glob("*/")):
        if status := read_trim(node):
            text = f"it forgets nothing since {to_text(status.since)}: {status.problem}"
            yield Line("fail", f"replica of {node.name}", text)


def _disk(folder: Path) -> Line:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    kind = find_type(there.resolve(), read_mounts())
    free = shutil.disk_usage(there).free
    text = f"{kind}, {free / 1e9:,.1f} GB free"
    if free < DISK_FREE_BYTES_MIN:
        limit = f"less than {DISK_FREE_BYTES_MIN / 1e9:.1f} GB"
        return Line("fail", "disk", f"{text}: {limit}", "free some, or choose another --home")
    return Line("pass", "disk", text)


def _ports() -> Iterator[Line]:
    yield Line("absent", "server", "not running", "doorstep up -d")
    ports = Ports()
    wanted = (("data", ports.data), ("health", ports.health), ("control", ports.control))
    taken = [(name, port.number) for name, port in wanted if not _is_free(port.number)]
    for name, number in taken:
        yield Line(
            "fail",
            f"port {number}",
            f"in use by another process; it is the default {name} port",
            f"doorstep up -d --{name}-port 0",
        )
    if not taken:
        numbers = ", ".join(f"{port.number} ({name})" for name, port in wanted)
        yield Line("pass", "ports", f"{numbers} are free")


def _is_free(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((LOOPBACK, number))
        except OSError:
            return False
    return True


def _server(announced: Announcement, folder: Path) -> Iterator[Line]:
    from doorstep.client import connect

    try:
        with connect(announced.url, home=folder) as client:
            found = client.installation()
            services = client.status()
            unloaded = [
                version
                for one in services
                if one.state in ("broken", "watch")
                for version in client.versions(one.service)
                if version.state == "not loadable"
            ]
    except DoorstepError as error:
        text = f"process {announced.pid} was announced, but {error.message}"
        yield Line("fail", "server", text, f"look into {folder / 'run' / 'up.log'}")
        return
    here = installed("doorstep")
    text = f"{found.version} at {found.console_url}, predictions at {found.data_url}"
    if here and found.version != here:
        text += f"; this command is {here}"
        yield Line("inconclusive", "server", text, "doorstep down, then doorstep up -d")
    else:
        yield Line("pass", "server", f"{text} (process {announced.pid})")
    for problem in found.problems:
        yield Line("fail", "server", problem)
    for node in found.nodes:
        said = f"{plural(node.workers, 'worker')}, plan {node.plan_number} of {found.plan_number}"
        if not node.live:
            yield Line("fail", f"node {node.node}", f"silent; it had {said}", "doorstep status")
        elif node.problems:
            yield Line("fail", f"node {node.node}", f"{said}; {'; '.join(node.problems)}")
        else:
            yield Line("pass", f"node {node.node}", f"{said}, serves {_served(node.loaded)}")
        survives = f"{node.journal}: an answered prediction survives {SURVIVES[node.journal]}"
        yield Line("pass", f"journal of {node.node}", survives)
    for one in services:
        if one.state == "killed":
            again = f'doorstep revive {one.service}@{one.champion or one.challenger} --why "..."'
            yield Line("fail", f"service {one.service}", one.headline, again)
    for version in unloaded:
        name = f"{version.service}@{version.number}"
        why = f"doorstep status {version.service} says which node, and why"
        yield Line("fail", f"version {name}", "cannot be loaded, though it is to be served", why)
    if not found.nodes:
        yield Line("inconclusive", "nodes", "none has reported yet", "doorstep doctor")


def _served(loaded: tuple[str, ...]) -> str:
    return ", ".join(loaded) or "nothing yet"
