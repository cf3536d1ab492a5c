"""Work that must not run in the control plane: model code, training data, DuckDB over user SQL.

`run_child("doorstep.gate.child", request)` starts a fresh interpreter (spawn, never fork), hands
it `request` bytes on its standard input and takes bytes back over a pipe of its own, so that
whatever the work prints cannot corrupt the answer. The module has `main(request: bytes) -> bytes`.

Run as `python -m doorstep.kernel.child MODULE`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from typing import IO

import msgspec

from doorstep.core import errors
from doorstep.core.errors import DoorstepError, RefusedError

ANSWER_BYTES_MAX = 256 * 1024 * 1024
STDERR_BYTES_KEPT = 16 * 1024
ENVIRONMENT_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "PYTHONPATH")


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    kind: str
    code: str
    message: str
    hint: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    body: bytes


def run_child(module: str, request: bytes, *, timeout_s: float, memory_mb: int = 8192) -> bytes:
    """What `module.main(request)` returns, from a process of its own.

    The child gets a short list of environment variables, so no secret of ours reaches model code.
    Raises: the child's own DoorstepError; RefusedError `child-died`, `child-timed-out`.
    """
    read_fd, write_fd = os.pipe()
    environment = {k: v for k, v in os.environ.items() if k in ENVIRONMENT_KEPT}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "doorstep.kernel.child", module, str(write_fd), str(memory_mb)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(write_fd,),
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(write_fd)
        timer = threading.Timer(timeout_s, _kill_group, (process.pid,))
        timer.start()
        try:
            answer, said = _exchange(process, read_fd, request)
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
            _kill_group(process.pid)
    return _unpack(answer, said, module, process.returncode, timeout_s if timed_out else None)


def _exchange(
    process: subprocess.Popen[bytes], read_fd: int, request: bytes
) -> tuple[bytes, bytes]:
    assert process.stdin is not None
    assert process.stderr is not None
    kept: list[bytes] = []
    reader = threading.Thread(target=_keep_tail, args=(process.stderr, kept), daemon=True)
    reader.start()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.close()
    with os.fdopen(read_fd, "rb") as pipe:
        answer = pipe.read(ANSWER_BYTES_MAX + 1)
    process.wait()
    reader.join(timeout=5)
    return answer, b"".join(kept)[-STDERR_BYTES_KEPT:]


def _keep_tail(stream: IO[bytes], kept: list[bytes]) -> None:
    while chunk := stream.read1(65536):  # type: ignore[attr-defined]
        kept.append(chunk)
        if sum(map(len, kept)) > 4 * STDERR_BYTES_KEPT:
            kept[:] = [b"".join(kept)[-STDERR_BYTES_KEPT:]]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _unpack(answer: bytes, said: bytes, module: str, code: int, timed_out_s: float | None) -> bytes:
    if timed_out_s is not None:
        raise RefusedError("child-timed-out", f"{module} was ended after {timed_out_s:g} s")
    try:
        message = msgspec.msgpack.decode(answer, type=Answer | Failure)
    except msgspec.DecodeError:
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise RefusedError("child-died", f"{module} ended with code {code}: {last[0]}") from None
    if isinstance(message, Answer):
        return message.body
    kinds = {one.kind: one for one in DoorstepError.__subclasses__()}
    raise kinds.get(message.kind, RefusedError)(message.code, message.message, message.hint)


def main() -> None:
    module, write_fd, memory_mb = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _limit_memory(memory_mb)
    request = sys.stdin.buffer.read()
    message: Answer | Failure
    try:
        message = Answer(importlib.import_module(module).main(request))
    except DoorstepError as error:
        message = Failure(error.kind, error.code, error.message, error.hint)
    except Exception as error:  # noqa: BLE001  the edge of a process: whatever the model raised
        import traceback

        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"[:500]
        message = Failure(errors.RefusedError.kind, "child-failed", f"{module}: {text}", "")
    with os.fdopen(write_fd, "wb") as pipe:
        pipe.write(msgspec.msgpack.encode(message))


def _limit_memory(memory_mb: int) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))


if __name__ == "__main__":
    main()
