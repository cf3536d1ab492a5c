"""One line in an application that serves a model: Doorstep watches what it answers.

    app = doorstep.Record(app, service="loans")                  # ASGI or WSGI
    app.add_middleware(doorstep.Record, service="loans")         # FastAPI, Starlette
    app.wsgi_app = doorstep.Record(app.wsgi_app, service="loans")    # Flask

Requests and answers pass untouched. Copies of JSON ones go through a bounded queue to a thread,
which makes rows of them and puts these into small files under `<home>/watched/spool/<service>`;
the control plane takes them from there. What does not fit is counted and left out: nothing here
ever waits for a disk, and no failure of ours reaches the application.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import inspect
import json
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from doorstep.core.errors import DoorstepError
from doorstep.core.ids import parse_name
from doorstep.kernel.home import is_home, resolve_home

BODY_BYTES_MAX = 1024 * 1024
QUEUED_MAX = 1_000
QUEUED_BYTES_MAX = 32 * 1024 * 1024
ROWS_A_REQUEST_MAX = 1_000
FILE_BYTES_MAX = 1024 * 1024
FILE_AGE_S_MAX = 2.0
SPOOL_BYTES_MAX = 256 * 1024 * 1024
FLUSH_S_MAX = 5.0
REPORT_EVERY_S = 60.0
SPOOL = ("watched", "spool")
Row = dict[str, Any]
ToRows = Callable[[Any, Any], Iterable[Row]]
"""(request, response), both parsed JSON -> rows as `ImportedRow` has them: `fields`, `answer`,
and, where they are known, `scores`, `key`, `version`, `outcome`."""
_log = logging.getLogger("doorstep.record")


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer, as far as they were seen. at, latency_ms, error: once it is
    over."""

    request: bytearray = field(default_factory=bytearray)
    answer: bytearray = field(default_factory=bytearray)
    status: int = 0
    is_json: bool = False
    lost: str = ""
    version: str = ""
    began_s: float = field(default_factory=time.perf_counter)
    at: int = 0
    latency_ms: float = 0.0
    error: str = ""

    @property
    def size(self) -> int:
        return len(self.request) + len(self.answer)

    def asked(self, data: bytes) -> None:
        self._add(self.request, data)

    def answered(self, data: bytes) -> None:
        if self.is_json:
            self._add(self.answer, data)

    def began(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        found = {name.lower(): value for name, value in headers}
        self.status = status
        self.is_json = "json" in found.get("content-type", "")
        self.version = found.get("doorstep-version", "")

    def _add(self, whole: bytearray, data: bytes) -> None:
        if len(whole) + len(data) > BODY_BYTES_MAX:
            self.lost = "too-large"
            whole.clear()
        if not self.lost:
            whole += data


class Record:
    """Middleware around an ASGI or WSGI application.

    home: of Doorstep; default as for its commands: DOORSTEP_HOME, `./.doorstep` if it is there,
    else the user's data folder. version: what this application
    calls its model, unless the answer says it (`version`, `model_version` or the header
    `Doorstep-Version`). path: only requests whose path starts so. rows: makes rows of a request and
    its answer where they are not in a shape that is known. `counts` says what became of requests.
    """

    def __new__(cls, app: Any, **_: Any) -> Record:
        # Servers look at whether `__call__` is a coroutine function.
        return super().__new__(_AsyncRecord if cls is Record and _is_async(app) else cls)

    def __init__(
        self,
        app: Any,
        *,
        service: str,
        home: str | Path | None = None,
        version: str = "current",
        path: str = "/",
        rows: ToRows | None = None,
    ) -> None:
        self.app = app
        self.counts: Counter[str] = Counter()
        self._path, self._version = path, version
        self._rows = rows or rows_of
        self._folder = _spool_of(str(home) if home else None, service)
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(me))
        atexit.register(_closed, me)

    def __call__(self, *asked: Any) -> Any:
        return self._asgi(*asked) if len(asked) == 3 else self._wsgi(*asked)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the application has."""
        if name == "app":
            raise AttributeError(name)
        return getattr(self.app, name)

    def flush(self, timeout_s: float = FLUSH_S_MAX) -> None:
        """Wait until what was recorded is in files that are taken, at most so long."""
        worker = self._worker
        if worker is not None:
            worker.flush(timeout_s)

    def _wants(self, method: str, path: str, kind: str) -> bool:
        is_ours = method == "POST" and path.startswith(self._path) and "json" in kind
        return is_ours and self._folder is not None

    def _take(self, exchange: Exchange, error: str = "") -> None:
        """Never raises, never waits."""
        try:
            exchange.at = time.time_ns() // 1000
            exchange.latency_ms = (time.perf_counter() - exchange.began_s) * 1000
            if error or exchange.status >= 500:
                exchange.error = error or f"status {exchange.status}"
            elif exchange.lost:
                return self._lose(exchange.lost)
            elif exchange.status >= 400 or not exchange.is_json:
                return self._lose("no-prediction")
            if exchange.lost:
                exchange.request.clear()
            self._working().put(exchange)
        except Exception as failure:  # noqa: BLE001  the application must not notice us
            self._lose(f"failed: {type(failure).__name__}")

    def _lose(self, why: str) -> None:
        self.counts[why] += 1

    def _working(self) -> _Worker:
        worker = self._worker
        if worker is None:
            assert self._folder is not None  # else nothing is wanted
            with self._lock:
                worker = self._worker = self._worker or _Worker(
                    self._folder, self._rows, self._version, self.counts
                )
        return worker

    # ASGI

    async def _asgi(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or not self._wants(
            scope.get("method", ""), scope.get("path", ""), _kind_of(scope)
        ):
            await self.app(scope, receive, send)
            return
        exchange = Exchange()

        async def received() -> Any:
            message = await receive()
            with contextlib.suppress(Exception):  # whatever a server or a middleware sends
                if message.get("type") == "http.request":
                    exchange.asked(message.get("body", b""))
            return message

        async def sent(message: Any) -> None:
            await send(message)
            with contextlib.suppress(Exception):
                if message.get("type") == "http.response.start":
                    exchange.began(message.get("status", 0), _texts(message.get("headers", ())))
                elif message.get("type") == "http.response.body":
                    exchange.answered(message.get("body", b""))

        error = ""
        try:
            await self.app(scope, received, sent)
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            if error or exchange.status:
                self._take(exchange, error)

    # WSGI

    def _wsgi(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._wants(
            environ.get("REQUEST_METHOD", ""),
            environ.get("PATH_INFO", ""),
            environ.get("CONTENT_TYPE", ""),
        ):
            answer: Iterable[bytes] = self.app(environ, start_response)
            return answer
        exchange = Exchange()
        environ = {**environ, "wsgi.input": _Input(environ["wsgi.input"], exchange)}

        def started(status: str, headers: Any, *more: Any) -> Any:
            write = start_response(status, headers, *more)
            with contextlib.suppress(Exception):
                exchange.began(int(status[:3]), headers)
            return write

        try:
            return _Answer(self.app(environ, started), exchange, self)
        except Exception as failure:
            self._take(exchange, type(failure).__name__)
            raise


def _spool_of(home: str | None, service: str) -> Path | None:
    """None where there is no place to record to: that is no reason to stop an application. Raises:
    InputError (`bad-name`): what the code says is wrong on every machine."""
    name = parse_name(service)
    try:
        place = resolve_home(home, os.environ, Path.cwd())
        folder = place.joinpath(*SPOOL, name)
    except (DoorstepError, OSError, RuntimeError) as error:
        _log.warning("nothing is recorded of %s: %s", service, error)
        return None
    with contextlib.suppress(OSError):  # as where we may not look; who writes says so
        if not is_home(place):
            _log.warning("%s is no home of Doorstep yet; `doorstep up` makes it one", place)
    return folder


class _AsyncRecord(Record):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._asgi(scope, receive, send)


def _is_async(app: Any) -> bool:
    while isinstance(app, functools.partial):
        app = app.func
    calls = getattr(app, "__call__", None)  # noqa: B004  what it is, not whether it is there
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(calls)


class _Input:
    """The body of a WSGI request; what the application reads of it is copied."""

    def __init__(self, stream: Any, exchange: Exchange) -> None:
        self._stream, self._exchange = stream, exchange

    def _seen(self, data: bytes) -> bytes:
        with contextlib.suppress(Exception):
            self._exchange.asked(data)
        return data

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._seen(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return (self._seen(line) for line in self._stream)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stream, name)  # not every stream has these
        if name in ("read", "readline", "read1"):
            return lambda *size: self._seen(found(*size))
        if name in ("readinto", "readinto1"):
            return lambda buffer: self._into(found(buffer), buffer)
        return found

    def _into(self, count: int | None, buffer: Any) -> int | None:
        """What Werkzeug, and so Flask, reads with."""
        self._seen(bytes(memoryview(buffer)[: count or 0]))
        return count


class _Answer:
    """The body of a WSGI answer, part by part as the application gives it."""

    def __init__(self, parts: Iterable[bytes], exchange: Exchange, record: Record) -> None:
        self._parts, self._exchange, self._record = parts, exchange, record
        self._iterator = iter(parts)
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            part = next(self._iterator)
        except StopIteration:
            self._end()
            raise
        except Exception as failure:
            self._end(type(failure).__name__)
            raise
        with contextlib.suppress(Exception):
            self._exchange.answered(part)
        return part

    def _end(self, error: str = "") -> None:
        if not self._is_over:
            self._is_over = True
            self._record._take(self._exchange, error)

    def close(self) -> None:
        try:
            closes = getattr(self._parts, "close", None)
            if closes is not None:
                closes()
        finally:
            self._end()


class _Worker(threading.Thread):
    """Makes rows and writes them, in this process only."""

    def __init__(self, folder: Path, rows: ToRows, version: str, counts: Counter[str]) -> None:
        super().__init__(name="doorstep-record", daemon=True)
        self._queue: queue.Queue[Exchange | threading.Event] = queue.Queue(QUEUED_MAX)
        self._bytes = 0
        self._rows, self._version, self._counts = rows, version, counts
        self._spool = _Spool(folder)
        self._told: Counter[str] = Counter()
        self._reported_s = time.monotonic()
        self.start()

    def put(self, taken: Exchange) -> None:
        # The sum may be off by what another thread adds at the same time: it bounds memory roughly.
        if self._bytes + taken.size > QUEUED_BYTES_MAX:
            self._counts["queue-full"] += 1
            return
        try:
            self._queue.put_nowait(taken)
            self._bytes += taken.size
        except queue.Full:
            self._counts["queue-full"] += 1

    def flush(self, timeout_s: float) -> None:
        over = threading.Event()
        with contextlib.suppress(queue.Full):
            self._queue.put(over, timeout=timeout_s)
            over.wait(timeout_s)

    def run(self) -> None:
        while not sys.is_finalizing():
            try:
                one = self._queue.get(timeout=FILE_AGE_S_MAX / 2)
            except queue.Empty:
                self._safely(self._spool.roll)
                self._report()
                continue
            if isinstance(one, threading.Event):
                self._safely(lambda: self._spool.roll(now=True))
                one.set()
                continue
            self._bytes -= one.size
            self._safely(lambda one=one: self._write(one))  # type: ignore[misc]
            self._report()

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as failure:  # noqa: BLE001  the next request is tried again
            self._counts[f"failed: {type(failure).__name__}"] += 1

    def _write(self, taken: Exchange) -> None:
        lines = []
        for index, row in enumerate(self._made(taken)):
            if index >= ROWS_A_REQUEST_MAX:
                self._counts["too-many-rows"] += 1
                break
            ours = {"id": uuid4().hex, "at": taken.at, "latency_ms": round(taken.latency_ms, 3)}
            ours["version"] = str(row.get("version") or taken.version or self._version)
            lines.append(json.dumps(ours | row | {"version": ours["version"]}, default=str))
        if not lines:
            self._counts["no-prediction"] += 1
            return
        lost = self._counts.total() - self._counts["recorded"] - self._counts["no-prediction"]
        if self._spool.write(lines, lost):
            self._counts["recorded"] += 1
        else:
            self._counts["spool-full"] += 1

    def _made(self, taken: Exchange) -> Iterable[Row]:
        request = json.loads(taken.request) if taken.request else {}
        if taken.error:
            said: Row = {"fields": {}, "error": taken.error}
            with contextlib.suppress(Exception):
                return [{**said, "fields": one} for one in _records(request)] or [said]
            return [said]
        return self._rows(request, json.loads(taken.answer))

    def _report(self) -> None:
        """Say once a minute what was left out since the last time."""
        now_s = time.monotonic()
        if now_s - self._reported_s < REPORT_EVERY_S:
            return
        self._reported_s = now_s
        seen = Counter(self._counts)
        new = {name: count for name, count in (seen - self._told).items() if name != "recorded"}
        self._told = seen
        if new.keys() - {"no-prediction"}:
            said = ", ".join(f"{count} {name}" for name, count in sorted(new.items()))
            _log.warning("not recorded: %s", said)


class _Spool:
    """Files of lines. The one being written is locked and ends in `.open`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._number = 0
        self._file: Any = None
        self._path = folder
        self._size = 0
        self._opened_s = 0.0
        self._lost_said = 0

    def write(self, lines: list[str], lost: int) -> bool:
        """False if the spool has no room. lost: requests that were left out so far; what is new
        of them is told to the reader."""
        if self._file is None and not self._open():
            return False
        if lost > self._lost_said:
            lines = [json.dumps({"lost": lost - self._lost_said}), *lines]
            self._lost_said = lost
        data = "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")
        _write_all(self._file, data)
        self._size += len(data)
        self.roll()
        return True

    def _open(self) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        held = sum(one.stat().st_size for one in self._folder.iterdir() if one.is_file())
        if held > SPOOL_BYTES_MAX:
            return False
        self._number += 1
        self._path = self._folder / f"{self._name}-{self._number:06d}.open"
        # An open file without a lock is taken as left: it has its name when it is locked.
        unlocked = self._path.with_suffix(".new")
        self._file = unlocked.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(self._path)
        self._size, self._opened_s = 0, time.monotonic()
        return True

    def roll(self, *, now: bool = False) -> None:
        """Give the file to its reader, if it is large or old enough."""
        if self._file is None:
            return
        is_old = time.monotonic() - self._opened_s >= FILE_AGE_S_MAX
        if now or is_old or self._size >= FILE_BYTES_MAX:
            self._path.rename(self._path.with_suffix(".jsonl"))
            self._file.close()
            self._file = None


def _write_all(file: Any, data: bytes) -> None:
    # Nothing is buffered: a child that is forked now must not write it a second time.
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def rows_of(request: Any, response: Any) -> list[Row]:
    """The rows of the shapes that are known: native, MLflow, TensorFlow `instances`, one bare
    object, or a list of them. Raises: ValueError if it is none of these."""
    asked = _records(request)
    answers = _answers(response, len(asked))
    said = _version_in(response)
    return [
        {"fields": fields, "version": said, **answer}
        for fields, answer in zip(asked, answers, strict=True)
    ]


def _records(request: Any) -> list[Row]:
    if isinstance(request, Mapping):
        context = request.get("context")
        for name in ("rows", "instances", "dataframe_records", "inputs", "data"):
            if isinstance(request.get(name), list):
                around = context if isinstance(context, list) else [context] * len(request[name])
                pairs = zip(request[name], around, strict=True)
                return [{**(other or {}), **_named(one)} for one, other in pairs]
        split = request.get("dataframe_split")
        if isinstance(split, Mapping):
            return [dict(zip(split["columns"], row, strict=True)) for row in split["data"]]
        return [_named(request)]
    if isinstance(request, list):
        return [_named(one) for one in request]
    raise ValueError("the request has no rows that are known")


def _named(one: Any) -> Row:
    if not isinstance(one, Mapping):
        raise ValueError("a row has no names")
    return dict(one)


def _answers(response: Any, count: int) -> list[Row]:
    found = response
    if isinstance(response, Mapping):
        named = (response.get(name) for name in ("predictions", "outputs", "results"))
        found = next((one for one in named if isinstance(one, list)), [response])
    if not isinstance(found, list) or len(found) != count:
        raise ValueError(f"the answer has no {count} predictions")
    return [_answer(one) for one in found]


def _answer(one: Any) -> Row:
    if isinstance(one, str | int | float | bool):
        return {"answer": one}
    if not isinstance(one, Mapping):
        raise ValueError("a prediction is neither a value nor an object")
    names = ("answer", "prediction", "label", "class", "value")
    row: Row = {"answer": next((one[name] for name in names if name in one), None)}
    chances = one.get("probabilities") or one.get("scores")
    if isinstance(chances, Mapping):
        row["scores"] = dict(chances)
    else:
        score = next((one[name] for name in ("score", "probability") if name in one), None)
        row["scores"] = {} if score is None else {"": score}
    if row["answer"] is None and not row["scores"]:
        raise ValueError("a prediction has neither an answer nor a score")
    return row


def _version_in(response: Any) -> str:
    if not isinstance(response, Mapping):
        return ""
    return str(response.get("model_version") or response.get("version") or "")


def _kind_of(scope: Any) -> str:
    return next((value for name, value in _texts(scope.get("headers", ())) if name == KIND), "")


KIND = "content-type"


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)


def _forked(me: weakref.ref[Record]) -> None:
    """In the child: threads and locks did not come along, and the parent's file is the parent's."""
    record = me()
    if record is not None:
        record._lock = threading.Lock()
        record._worker = None
        record.counts = Counter()


def _closed(me: weakref.ref[Record]) -> None:
    record = me()
    if record is not None:
        record.flush()
