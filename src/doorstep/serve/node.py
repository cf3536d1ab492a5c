"""Start a node.

    python -m doorstep.serve.node --home DIR --state DIR [--host H] [--port P] [--health-port Q]
                                  [--workers N] [--node NAME] [--no-compactor]
                                  [--tls-cert FILE --tls-key FILE [--tls-client-ca FILE]]
                                  [--access-log FILE [--access-sample 1%]]
                                  [--otlp URL [--trace-sample 1%]]

Says where it listens with one line of JSON on standard output. SIGTERM or SIGINT: drain and exit 0.
SIGHUP: replace the front workers one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

from doorstep.core.errors import DoorstepError, MissingExtraError
from doorstep.core.ids import NAME_LENGTH_MAX, parse_name
from doorstep.serve.health import serve_health
from doorstep.serve.observe_options import observe_options
from doorstep.serve.supervisor import NodeOptions, Supervisor
from doorstep.serve.tls import tls_files
from doorstep.serve.traces import require_otel

WORKERS_MAX = 256
OTLP_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def default_node() -> str:
    """The machine's name as a node name."""
    text = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())[:NAME_LENGTH_MAX].strip("-")
    return text or "node"


async def run(options: NodeOptions) -> None:
    """Serve until SIGTERM. Raises: RefusedError (`port-in-use`, `state-in-use`, `no-api-key`,
    `bad-tls`)."""
    supervisor = Supervisor(options)
    supervisor.prepare()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, supervisor.stop)
    loop.add_signal_handler(signal.SIGINT, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.roll)
    health = await serve_health(supervisor, options.host, options.health_port)
    port = health.sockets[0].getsockname()[1]
    said = {
        "data_url": supervisor.data_url,
        "health_url": f"http://{options.host}:{port}",
        "node": options.node,
    }
    print(json.dumps(said), flush=True)
    await supervisor.run()
    health.close()


def parse_options(argv: list[str] | None = None) -> NodeOptions:
    parser = argparse.ArgumentParser(prog="doorstep.serve.node")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--node", default=default_node())
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--health-port", type=int, default=8081)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--no-compactor", action="store_true")
    for name in ("--tls-cert", "--tls-key", "--tls-client-ca"):
        parser.add_argument(name, default="")
    parser.add_argument("--access-log", default="")
    parser.add_argument("--access-sample", default="1%")
    parser.add_argument("--otlp", default="")
    parser.add_argument("--trace-sample", default="1%")
    args = parser.parse_args(argv)
    if not 1 <= args.workers <= WORKERS_MAX:
        parser.error(f"--workers is {args.workers}; expected 1 to {WORKERS_MAX}")
    return NodeOptions(
        home=args.home.resolve(),
        state=args.state.resolve(),
        node=parse_name(args.node, "node"),
        host=args.host,
        port=args.port,
        health_port=args.health_port,
        workers=args.workers,
        compactor=not args.no_compactor,
        observe=observe_options(
            args.access_log, args.access_sample, _otlp(args.otlp), args.trace_sample
        ),
        tls=tls_files(args.tls_cert, args.tls_key, args.tls_client_ca),
    )


def _otlp(asked: str) -> str:
    """Where traces go. The variable may be meant for others on this machine: where the extra is
    missing, only the option is an error. Raises: MissingExtraError."""
    found = asked or os.environ.get(OTLP_VARIABLE, "")
    try:
        if found:
            require_otel()
    except MissingExtraError as error:
        if asked:
            raise
        print(f"{OTLP_VARIABLE} is set: {error.message}: {error.hint}", file=sys.stderr)
        return ""
    return found


def main() -> None:
    try:
        asyncio.run(run(parse_options()))
    except DoorstepError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"the node cannot start: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
