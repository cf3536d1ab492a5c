"""Work that must not run in the control plane: model code, training data, DuckDB over user SQL.

`run_child("doorstep.gate.child", request)` starts a fresh interpreter (spawn, never fork), hands
it `request` bytes on its standard input and takes bytes back over a pipe of its own, so that
whatever the work prints cannot corrupt the answer. The module has `main(request: bytes) -> bytes`.

Request and answer carry their length, so neither waits for the end of a pipe: the request's pipe
stays open as the child's lifeline (its end means that we are gone, and the child ends itself and
its group), and a process that the work left behind cannot hold an answer back.

Run as `python -P -m doorstep.kernel.child MODULE`: the working folder is the user's, and a file
`queue.py` that lies there must not become ours.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from doorstep.core import errors
from doorstep.core.errors import DoorstepError, RefusedError

ANSWER_BYTES_MAX = 256 * 1024 * 1024
STDERR_BYTES_KEPT = 16 * 1024
ENVIRONMENT_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "PYTHONPATH")
LENGTH_BYTES = 8
FAILED = "child-failed"
HEAD = struct.Struct(">Qd")
"""Of a request: its length, and how long the child may take for it."""
CHUNK_BYTES = 256 * 1024
LOOK_S = 0.2
END_S = 1.0
"""How long a child that has answered may take to end by itself."""
MARGIN_S = 2.0
"""The child's own limit is this much later than ours, which says what happened."""


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    kind: str
    code: str
    message: str
    hint: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    body: bytes


class _Children:
    """The children that this process runs, so that stopping ends them and starts no more; and by
    module the one that waits for a further request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pids: set[int] = set()
        self._waiting: dict[str, _Child] = {}
        self.are_refused = False

    def start(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self.are_refused:
                raise _stopping()
            process = start()
            self._pids.add(process.pid)
            return process

    def forget(self, pid: int) -> None:
        with self._lock:
            self._pids.discard(pid)

    def take(self, module: str) -> _Child | None:
        """The one that waits; it is the caller's now."""
        with self._lock:
            return self._waiting.pop(module, None)

    def keep(self, module: str, child: _Child) -> None:
        with self._lock:
            if self.are_refused:
                spare: _Child | None = child
            else:
                spare = self._waiting.pop(module, None)
                self._waiting[module] = child
        if spare is not None:
            spare.close()

    def end(self) -> None:
        with self._lock:
            self.are_refused = True
            for pid in self._pids:
                _kill_group(pid)
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for child in waiting:
            child.close()

    def allow(self) -> None:
        with self._lock:
            self.are_refused = False


# One list for each process, like its signal handlers: whoever stops it must know all of them.
_CHILDREN = _Children()


def end_children() -> None:
    """End every child of this process at once, and refuse new ones until `allow_children`.

    Who waits for one of them gets RefusedError (`child-died`).
    """
    _CHILDREN.end()


def allow_children() -> None:
    """Children may be started (again)."""
    _CHILDREN.allow()


def run_child(
    module: str, request: bytes, *, timeout_s: float, memory_mb: int = 8192, kept_s: float = 0.0
) -> bytes:
    """What `module.main(request)` returns, from a process of its own.

    The child gets a short list of environment variables, so no secret of ours reaches model code.
    It ends with this process, however that ends. What it forked and left in its group ends with it.
    kept_s: it waits that long for the next request to the module, which then need not wait for an
    interpreter and its imports: for work of ours that leaves nothing behind.
    Raises: the child's own DoorstepError; RefusedError `child-died`, `child-timed-out`.
    """
    child = _CHILDREN.take(module) if kept_s else None
    if child is not None:
        with contextlib.suppress(_Gone):  # it has just waited long enough: another one is asked
            return child.ask(request, timeout_s)
    try:
        return _Child(module, memory_mb, kept_s).ask(request, timeout_s)
    except _Gone as gone:
        raise gone.error from None


class _Gone(Exception):
    """The child ended without an answer."""

    def __init__(self, error: RefusedError) -> None:
        self.error = error


class _Child:
    """A process that works through requests, one after the other."""

    def __init__(self, module: str, memory_mb: int, kept_s: float) -> None:
        self._module, self._kept_s = module, kept_s
        self._answer_fd, write_fd = os.pipe()
        words = [sys.executable, "-P", "-m", "doorstep.kernel.child", module]
        words += [str(write_fd), str(memory_mb), str(kept_s)]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                words,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(write_fd,),
                env=_environment(),
                start_new_session=True,
            )

        try:
            self._process = _CHILDREN.start(start)
        except BaseException:
            os.close(self._answer_fd)
            raise
        finally:
            os.close(write_fd)

    def ask(self, request: bytes, timeout_s: float) -> bytes:
        """Its answer; afterwards it waits for the next request, or is closed. Raises: _Gone,
        DoorstepError."""
        is_kept = False
        head = HEAD.pack(len(request), timeout_s + MARGIN_S)
        talk = _Talk(self._process, self._answer_fd, head + request)
        try:
            in_time = talk.run(time.monotonic() + timeout_s)
            answer = talk.answer()
            is_kept = bool(answer and self._kept_s)
            if in_time and not is_kept:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_S)
            said = talk.last_words()
        finally:
            talk.close()
            if is_kept:
                _CHILDREN.keep(self._module, self)
            else:
                self.close()
        if not in_time or self._process.returncode == -signal.SIGALRM:
            raise RefusedError("child-timed-out", f"{self._module} was ended after {timeout_s:g} s")
        return _unpack(answer, said, self._module, self._process.returncode)

    def close(self) -> None:
        """It and its group are ended."""
        _CHILDREN.forget(self._process.pid)
        _kill_group(self._process.pid)
        self._process.wait()
        os.close(self._answer_fd)
        for stream in (self._process.stdin, self._process.stderr):
            assert stream is not None
            stream.close()


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in ENVIRONMENT_KEPT}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class _Talk:
    """The request out, the answer and the last words in, by one thread that never blocks."""

    def __init__(self, process: subprocess.Popen[bytes], answer_fd: int, request: bytes) -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stderr, self._answer = process.stdin, process.stderr, answer_fd
        self._pending = memoryview(request)
        self._got, self._said = bytearray(), bytearray()
        self._is_over = False
        self._selector = selectors.DefaultSelector()
        for fd in (self._stdin.fileno(), self._stderr.fileno(), answer_fd):
            os.set_blocking(fd, False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
        self._selector.register(self._stderr, selectors.EVENT_READ, self._listen)
        self._selector.register(answer_fd, selectors.EVENT_READ, self._read)

    def run(self, until_s: float) -> bool:
        """Whether it answered or ended before `until_s`."""
        while not self._is_over:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            # Looked at first: what it wrote before its end is in the pipe by now.
            is_dead = self._process.poll() is not None
            events = self._selector.select(0 if is_dead else min(left_s, LOOK_S))
            for key, _ in events:
                key.data()
            if is_dead and not any(key.fd == self._answer for key, _ in events):
                # A process that it left behind holds the pipe open.
                return True
        return True

    def answer(self) -> bytes:
        """The whole answer; b"" if there is none."""
        body = bytes(self._got[LENGTH_BYTES:])
        return body if len(self._got) >= LENGTH_BYTES and len(body) == self._length() else b""

    def last_words(self) -> bytes:
        """The end of what it wrote on standard error so far."""
        for _ in range(STDERR_BYTES_KEPT // 1024):
            if not self._listen():
                break
        return bytes(self._said[-STDERR_BYTES_KEPT:])

    def close(self) -> None:
        self._selector.close()

    def _length(self) -> int:
        return int.from_bytes(self._got[:LENGTH_BYTES], "big")

    def _write(self) -> None:
        try:
            sent = os.write(self._stdin.fileno(), self._pending[:CHUNK_BYTES])
        except BlockingIOError:
            return
        except BrokenPipeError:
            sent = len(self._pending)
        self._pending = self._pending[sent:]
        if not self._pending:
            self._selector.unregister(self._stdin)

    def _listen(self) -> bool:
        """Whether it said more."""
        try:
            chunk = os.read(self._stderr.fileno(), CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._said = (self._said + chunk)[-STDERR_BYTES_KEPT:]
        if not chunk and self._stderr in self._selector.get_map():
            self._selector.unregister(self._stderr)
        return bool(chunk)

    def _read(self) -> None:
        chunk = os.read(self._answer, CHUNK_BYTES)
        self._got += chunk
        is_known = len(self._got) >= LENGTH_BYTES
        wanted = min(self._length(), ANSWER_BYTES_MAX) + LENGTH_BYTES if is_known else LENGTH_BYTES
        self._is_over = not chunk or (is_known and len(self._got) >= wanted)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _stopping() -> RefusedError:
    return RefusedError(
        "child-died",
        "this work was ended because Doorstep is stopping",
        "start Doorstep again and ask again",
    )


def _unpack(answer: bytes, said: bytes, module: str, code: int | None) -> bytes:
    try:
        message = msgspec.msgpack.decode(answer, type=Answer | Failure)
    except msgspec.DecodeError:
        if _CHILDREN.are_refused:
            raise _stopping() from None
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        died = RefusedError("child-died", f"{module} ended with code {code}: {last[0]}")
        raise _Gone(died) from None
    if isinstance(message, Answer):
        return message.body
    kinds = {one.kind: one for one in DoorstepError.__subclasses__()}
    raise kinds.get(message.kind, RefusedError)(message.code, message.message, message.hint)


def main() -> None:
    module, answer_fd, memory_mb = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    kept_s = float(sys.argv[4])
    _limit_memory(memory_mb)
    os.set_inheritable(answer_fd, False)
    requests: queue.SimpleQueue[tuple[bytes, float]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(_take_stdin(), requests), daemon=True).start()
    request, timeout_s = requests.get()
    with os.fdopen(answer_fd, "wb") as pipe, contextlib.suppress(queue.Empty):
        while True:
            _limit_time(timeout_s)
            answer = _work(module, request)
            encoded = msgspec.msgpack.encode(answer)
            _limit_time(0.0)
            pipe.write(len(encoded).to_bytes(LENGTH_BYTES, "big"))
            pipe.write(encoded)
            pipe.flush()
            if isinstance(answer, Failure) and answer.code == FAILED:
                break  # what it keeps may be broken: a database that fails once fails for ever
            request, timeout_s = requests.get(timeout=kept_s)


def _work(module: str, request: bytes) -> Answer | Failure:
    try:
        return Answer(importlib.import_module(module).main(request))
    except DoorstepError as error:
        return Failure(error.kind, error.code, error.message, error.hint)
    except Exception as error:  # noqa: BLE001  the edge of a process: whatever the model raised
        import traceback

        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"[:500]
        return Failure(errors.RefusedError.kind, FAILED, f"{module}: {text}", "")


def _take_stdin() -> int:
    """Our end of the lifeline; model code that reads standard input finds it empty."""
    lifeline = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return lifeline


def _read_exactly(fd: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.read(fd, min(length, CHUNK_BYTES))
        if not part:
            _end_group()
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _listen(lifeline: int, requests: queue.SimpleQueue[tuple[bytes, float]]) -> None:
    """Read requests; the end of the pipe means that we are gone."""
    while True:
        length, timeout_s = HEAD.unpack(_read_exactly(lifeline, HEAD.size))
        requests.put((_read_exactly(lifeline, length), timeout_s))


def _end_group() -> None:
    """End this process and what it started; the group is ours if `run_child` made it."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _limit_time(timeout_s: float) -> None:
    """The kernel ends us then, even in native code that never lets another thread run; 0: never."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


def _limit_memory(memory_mb: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))


if __name__ == "__main__":
    main()
