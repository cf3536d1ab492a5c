"""As `doorstep.serve.generator`, over gRPC: channels with a connection each, one call at a time.

python generator.py PORT METHOD CHANNELS SECONDS < MESSAGE     prints good, bad, s as JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc
import grpc.aio
import uvloop


async def main() -> None:
    port, method, channels, seconds = sys.argv[1:5]
    message, count = sys.stdin.buffer.read(), [0, 0]
    began = time.perf_counter()
    end = began + float(seconds)

    async def one() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = channel.unary_unary(method)
            while time.perf_counter() < end:
                try:
                    await call(message)
                    count[0] += 1
                except grpc.aio.AioRpcError:
                    count[1] += 1

    await asyncio.gather(*[one() for _ in range(int(channels))])
    print(json.dumps({"good": count[0], "bad": count[1], "s": time.perf_counter() - began}))


if __name__ == "__main__":
    uvloop.run(main())
