"""A load generator in a process of its own: keep-alive connections, one request after the other.

python generator.py PORT PATH CONNECTIONS SECONDS < BODY     prints JSON: answers, seconds, bad
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop


class Client(asyncio.Protocol):
    def __init__(self, request: bytes, count: list[int]) -> None:
        self.request = request
        self.count = count
        self.buffer = b""
        self.needs = 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.needs:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self.buffer.index(b"content-length: ") + 16
            self.needs = end + 4 + int(self.buffer[at : self.buffer.index(b"\r", at)])
        if len(self.buffer) >= self.needs:
            self.count[not self.buffer.startswith(b"HTTP/1.1 200")] += 1
            self.buffer, self.needs = b"", 0
            self.transport.write(self.request)


async def main() -> None:
    port, path, connections, seconds = sys.argv[1:5]
    body = sys.stdin.buffer.read()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: bench\r\naccept: */*\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request, count = head.encode() + body, [0, 0]
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(int(connections)):
        await loop.create_connection(lambda: Client(request, count), "127.0.0.1", int(port))
    await asyncio.sleep(float(seconds))
    print(json.dumps({"good": count[0], "bad": count[1], "s": time.perf_counter() - began}))


if __name__ == "__main__":
    uvloop.run(main())
