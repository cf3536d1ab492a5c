"""An engine: one version in a process of its own, asked over a Unix socket.

    python -m doorstep.serve.engine --bundle DIR --form onnx|native --socket PATH [--trusted]

It listens only once the model is loaded and warm, so whoever connects can ask. What has arrived
from all workers is scored together; when that raises, each request alone. It ends when its
standard input closes (its supervisor is gone) and nobody is connected any more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from doorstep.core.contract import Contract
from doorstep.core.manifest import Manifest
from doorstep.formats.batch import Batch, Scorer
from doorstep.formats.load import load_scorer
from doorstep.serve.gathering import Gathering
from doorstep.serve.limits import ENGINE_BATCH_ROWS_MAX
from doorstep.serve.version import read_manifest, warm_up
from doorstep.serve.wire import Ask, Frames, Reply, encode_frame

READ_BYTES = 256 * 1024
SEND_TIMEOUT_S = 5.0
ERROR_CHARS_MAX = 300


class Peer:
    """One worker's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.frames = Frames()
        self.out = bytearray()


class Engine:
    """Serves one scorer until the supervisor and all workers are gone."""

    def __init__(self, scorer: Scorer, contract: Contract, listener: socket.socket) -> None:
        self._scorer = scorer
        self._columns = len(contract.numbers)
        self._text_columns = len(contract.texts)
        self._decode = msgspec.msgpack.Decoder(Ask).decode
        self._listener = listener
        # Not epoll: this one waits for fractions of a millisecond, and there are few connections.
        self._selector = selectors.SelectSelector()
        self._gathering = Gathering()
        # What came while a batch was scored: of others than those whom it answers.
        self._late: list[tuple[Peer, Ask]] = []
        self._peers: set[Peer] = set()
        self._orphaned = False
        self._selector.register(listener, selectors.EVENT_READ, "listener")

    def watch(self, stdin_fd: int) -> None:
        self._selector.register(stdin_fd, selectors.EVENT_READ, "supervisor")

    def run(self) -> None:
        while not (self._orphaned and not self._peers):
            for chunk in _chunks(self._gather()):
                self._answer(chunk)

    def _gather(self) -> list[tuple[Peer, Ask]]:
        """What has arrived, and what is worth a moment's wait; waits until something has."""
        late, self._late = self._late, []
        fresh = [] if late else self._collect(None)
        waited = False
        while left_ns := self._gathering.wait_ns(_calls(late), _calls(fresh), time.monotonic_ns()):
            waited = True
            fresh += self._collect(left_ns / 1e9)
        if waited:
            self._gathering.note_wait(_calls(fresh))
        return late + fresh

    def _collect(self, wait_s: float | None) -> list[tuple[Peer, Ask]]:
        """What has arrived from everybody, at once or in this time; None: waits for something."""
        asked: list[tuple[Peer, Ask]] = []
        for key, _ in self._selector.select(wait_s):
            if key.data == "listener":
                self._accept()
            elif key.data == "supervisor":
                self._orphaned = not os.read(key.fd, 4096) or self._orphaned
                if self._orphaned:
                    self._selector.unregister(key.fileobj)
            else:
                asked += [(key.data, ask) for ask in self._receive(key.data)]
        return asked

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(SEND_TIMEOUT_S)
        peer = Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _receive(self, peer: Peer) -> list[Ask]:
        try:
            data = peer.connection.recv(READ_BYTES)
            if data:
                return [self._decode(frame) for frame in peer.frames.feed(data)]
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            print(f"engine: a connection was dropped: {error}", file=sys.stderr)
        self._drop(peer)
        return []

    def _drop(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.connection)
            peer.connection.close()

    def _answer(self, asked: Sequence[tuple[Peer, Ask]]) -> None:
        began_ns = time.monotonic_ns()
        due = [(peer, ask) for peer, ask in asked if ask.deadline_ns > began_ns]
        replies = self._score([ask for _, ask in due])
        took_ns = time.monotonic_ns() - began_ns
        rows = Counter[Peer]()
        for peer, ask in due:
            rows[peer] += ask.rows
        for (peer, _), reply in zip(due, replies, strict=True):
            reply.row_ns = took_ns // rows[peer]
            peer.out += encode_frame(reply)
        self._late += self._collect(0)
        for peer in {peer for peer, _ in due}:
            self._send(peer)
        if due:
            now_ns = time.monotonic_ns()
            self._gathering.note_batch(_calls(due), rows.total(), took_ns, now_ns)

    def _send(self, peer: Peer) -> None:
        try:
            peer.connection.sendall(peer.out)
        except OSError:
            self._drop(peer)
        peer.out.clear()

    def _score(self, asks: list[Ask]) -> list[Reply]:
        if not asks:
            return []
        try:
            batch = _join([self._batch(ask) for ask in asks])
            scores = np.ascontiguousarray(self._scorer.score(batch), dtype=np.float64)
            if scores.ndim != 2 or scores.shape[0] != batch.rows:
                raise ValueError(f"scores have shape {scores.shape} for {batch.rows} rows")
        except Exception as error:  # noqa: BLE001  whatever a model raises
            if len(asks) > 1:
                return [self._score([ask])[0] for ask in asks]
            said = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
            return [Reply(asks[0].id, 0, b"", said)]
        replies, at = [], 0
        for ask in asks:
            replies.append(Reply(ask.id, scores.shape[1], scores[at : at + ask.rows].tobytes()))
            at += ask.rows
        return replies

    def _batch(self, ask: Ask) -> Batch:
        numbers = np.frombuffer(ask.numbers).reshape(ask.rows, self._columns)
        if len(ask.texts) != self._text_columns:
            raise ValueError(f"{len(ask.texts)} text columns; expected {self._text_columns}")
        return Batch(numbers, ask.texts)


def _calls(asked: Sequence[tuple[Peer, Ask]]) -> int:
    return sum([ask.calls for _, ask in asked])


def _chunks(asked: list[tuple[Peer, Ask]]) -> list[list[tuple[Peer, Ask]]]:
    """Batches of at most ENGINE_BATCH_ROWS_MAX rows; a request is never cut."""
    chunks: list[list[tuple[Peer, Ask]]] = []
    rows = ENGINE_BATCH_ROWS_MAX
    for one in asked:
        if rows + one[1].rows > ENGINE_BATCH_ROWS_MAX:
            chunks.append([])
            rows = 0
        chunks[-1].append(one)
        rows += one[1].rows
    return chunks


def _join(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    texts = [
        [text for column in columns for text in column]
        for columns in zip(*(batch.texts for batch in batches), strict=True)
    ]
    return Batch(np.concatenate([batch.numbers for batch in batches]), texts)


def listen(path: str) -> socket.socket:
    """A listening Unix socket at `path`, for this user only."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108  a path that may be too long for anything but this call
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(128)
    return listener


def load(bundle: Path, form: str, *, trusted: bool) -> tuple[Scorer, Manifest]:
    """The scorer of a bundle folder, warm. Raises: InputError, RefusedError."""
    manifest = read_manifest(bundle.parent, bundle.name)
    kind = "onnx" if form == "onnx" else "native"
    scorer = load_scorer(bundle, manifest, kind, trusted=trusted)  # type: ignore[arg-type]
    warm_up(scorer, manifest.contract)
    return scorer, manifest


def main() -> None:
    parser = argparse.ArgumentParser(prog="doorstep.serve.engine")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--form", choices=("onnx", "native"), required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--trusted", action="store_true")
    args = parser.parse_args()
    scorer, manifest = load(args.bundle, args.form, trusted=args.trusted)
    engine = Engine(scorer, manifest.contract, listen(args.socket))
    engine.watch(sys.stdin.fileno())
    engine.run()


if __name__ == "__main__":
    main()
