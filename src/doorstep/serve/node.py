"""Start a node.

    python -m doorstep.serve.node --home DIR --state DIR [--host H] [--port P] [--health-port Q]
                                  [--grpc-port R] [--workers N] [--memory MB] [--node NAME]
                                  [--no-compactor]
                                  [--predict-route PATH] [--health-route PATH]
                                  [--tls-cert FILE --tls-key FILE [--tls-client-ca FILE]]
                                  [--journal default|durable|replicated] [--journal-max GB]
                                  [--replica URL] [--replica-days DAYS]
                                  [--disk-reserve MB] [--disk-low refuse|no-inputs]
                                  [--access-log FILE [--access-sample 1%]]
                                  [--otlp URL [--trace-sample 1%]]
                                  [--bound port=FD] [--bound health-port=FD] ...

gRPC is served if its port is named, and needs the extra `grpc`. --bound: a socket that whoever
starts the node has bound for it, so that nobody else takes its port meanwhile.
Says where it listens with one line of JSON on standard output. SIGTERM or SIGINT: drain and exit 0.
DOORSTEP_REPLICA is the default of --replica, and keeps its password off the command line.
SIGHUP: replace the front workers one by one. AIP_HTTP_PORT, AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE
(Vertex AI's) are the defaults of the port and the routes.
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
from doorstep.core.structs import prepare_structs
from doorstep.journal.options import (
    DISK_RESERVE_MB,
    JOURNAL_GB_MAX,
    REPLICA_DAYS,
    journal_options,
)
from doorstep.journal.replica import VARIABLE
from doorstep.serve.health import serve_health
from doorstep.serve.listeners import open_listener
from doorstep.serve.observe_options import observe_options
from doorstep.serve.protos import require_grpc
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
    `bad-tls`), MissingExtraError if gRPC is asked for and grpcio is not installed."""
    prepare_structs()
    if options.grpc_port is not None:
        require_grpc()
    supervisor = Supervisor(options)
    supervisor.prepare()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, supervisor.stop)
    loop.add_signal_handler(signal.SIGINT, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.roll)
    listener = open_listener(
        options.host, options.health_port, "health-port", options.bound.get("health-port")
    )
    health = await serve_health(supervisor, listener)
    port = health.sockets[0].getsockname()[1]
    said = {
        "data_url": supervisor.data_url,
        "health_url": f"http://{options.host}:{port}",
        "grpc_url": supervisor.grpc_url,
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
    parser.add_argument("--port", type=int, default=os.environ.get("AIP_HTTP_PORT", "8080"))
    parser.add_argument("--health-port", type=int, default=8081)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory", type=int, default=0, metavar="MB")
    parser.add_argument("--predict-route", default=os.environ.get("AIP_PREDICT_ROUTE", ""))
    parser.add_argument("--health-route", default=os.environ.get("AIP_HEALTH_ROUTE", ""))
    parser.add_argument("--no-compactor", action="store_true")
    for name in ("--tls-cert", "--tls-key", "--tls-client-ca"):
        parser.add_argument(name, default="")
    parser.add_argument("--journal", default="default")
    parser.add_argument("--journal-max", type=float, default=JOURNAL_GB_MAX, metavar="GB")
    parser.add_argument("--disk-reserve", type=float, default=DISK_RESERVE_MB, metavar="MB")
    parser.add_argument("--disk-low", default="refuse")
    parser.add_argument("--replica", default=os.environ.get(VARIABLE, ""), metavar="URL")
    parser.add_argument("--replica-days", type=float, default=REPLICA_DAYS, metavar="DAYS")
    parser.add_argument("--access-log", default="")
    parser.add_argument("--access-sample", default="1%")
    parser.add_argument("--otlp", default="")
    parser.add_argument("--trace-sample", default="1%")
    parser.add_argument("--bound", action="append", default=[], metavar="OPTION=FD")
    args = parser.parse_args(argv)
    if not 1 <= args.workers <= WORKERS_MAX:
        parser.error(f"--workers is {args.workers}; expected 1 to {WORKERS_MAX}")
    if args.memory < 0:
        parser.error(f"--memory is {args.memory}; expected MB, or 0 for half of the machine's")
    return NodeOptions(
        home=args.home.resolve(),
        state=args.state.resolve(),
        node=parse_name(args.node, "node"),
        host=args.host,
        port=args.port,
        health_port=args.health_port,
        grpc_port=args.grpc_port,
        workers=args.workers,
        memory_mb=args.memory,
        compactor=not args.no_compactor,
        predict_route=args.predict_route,
        health_route=args.health_route,
        observe=observe_options(
            args.access_log, args.access_sample, _otlp(args.otlp), args.trace_sample
        ),
        keep=journal_options(
            args.journal,
            args.journal_max,
            args.disk_reserve,
            args.disk_low,
            args.replica,
            args.replica_days,
        ),
        bound={name: int(fd) for name, _, fd in (one.partition("=") for one in args.bound)},
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
