"""The floor: uvloop + httptools + msgspec + onnxruntime, micro-batched by loop turn, nothing else.

No contract beyond types, no routing, no journal, no counters, one route. What Doorstep does on top
of this is what `run.py` measures.  python bare.py MODEL.onnx FIELDS_AS_JSON PORT
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import httptools
import msgspec
import numpy as np
import onnxruntime
import uvloop

LABELS = ("bad", "good")


class Batcher:
    def __init__(self, model: str, loop: asyncio.AbstractEventLoop) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(model, options)
        self.input = self.session.get_inputs()[0].name
        self.loop = loop
        self.waiting: list = []

    def add(self, connection, row) -> None:
        if not self.waiting:
            self.loop.call_soon(self.run)
        self.waiting.append((connection, row))

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        matrix = np.array([row for _, row in waiting], dtype=np.float32)
        scores = self.session.run(["probabilities"], {self.input: matrix})[0].tolist()
        for (connection, _), row in zip(waiting, scores, strict=True):
            connection.answer(row)


def protocol_of(batcher: Batcher, names: list[str]) -> type[asyncio.Protocol]:
    fields = [(f"f{at}", float) for at in range(len(names))]
    rename = {f"f{at}": name for at, name in enumerate(names)}
    row_type = msgspec.defstruct("Row", fields, rename=rename, gc=False)
    body_type = msgspec.defstruct("Body", [("rows", list[row_type])])
    decode = msgspec.json.Decoder(body_type).decode
    encode = msgspec.json.Encoder().encode

    class Connection(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            self.transport = transport
            self.parser = httptools.HttpRequestParser(self)
            self.body = b""

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            rows = decode(self.body).rows
            self.body = b""
            batcher.add(self, msgspec.structs.astuple(rows[0]))

        def answer(self, scores: list[float]) -> None:
            body = encode({"predictions": [dict(zip(LABELS, scores, strict=True))]})
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )

    return Connection


async def main() -> None:
    loop = asyncio.get_running_loop()
    batcher = Batcher(sys.argv[1], loop)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[3])), backlog=1024)
    server = await loop.create_server(protocol_of(batcher, json.loads(sys.argv[2])), sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
