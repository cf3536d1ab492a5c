"""Use: bench, a load test of a running service against what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from doorstep.cli.options import Home, Json, Url, connect
from doorstep.cli.output import done, emit, progress

LOADS = ["1000 users", "1000000 users"]
Source = Annotated[
    str, typer.Argument(metavar="[FILE]", help="Rows to send; else made from the contract.")
]
Sizes = Annotated[
    list[str], typer.Option("--load", help="'1000 users' or '50/s': what to size for.")
]
Machine = Annotated[
    Path | None,
    typer.Option("--calibration", help="Size for the machine that this JSON is of."),
]
Live = Annotated[
    bool, typer.Option("--live", help="Send real requests, recorded and watched as such.")
]
Believed = Annotated[
    Path | None, typer.Option("--ca", help="Certificates to believe; else SSL_CERT_FILE.")
]


def add_to(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    service: Annotated[str, typer.Argument(help="The service.")] = "",
    source: Source = "",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.2, max=60, help="How long each rate is held.")
    ] = 3.0,
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=256, help="Kept open.")
    ] = 16,
    load: Sizes = LOADS,
    per_user: Annotated[
        float, typer.Option("--per-user", min=0.0001, help="Requests a minute of each user.")
    ] = 1.0,
    peak: Annotated[
        float, typer.Option("--peak", min=1, help="The busiest time over the mean.")
    ] = 3.0,
    price: Annotated[
        float, typer.Option("--price", min=0, help="Of one machine for one hour.")
    ] = 0.0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the figure to this HTML file.")
    ] = None,
    calibration: Machine = None,
    calibrate_only: Annotated[
        bool, typer.Option("--calibrate", help="Only measure this machine, for --calibration.")
    ] = False,
    live: Live = False,
    ca: Believed = None,
    json: Json = False,
    url: Url = None,
    home: Home = None,
) -> None:
    """Load a running service until its promises break, and say how many machines a load needs.

    Its rows are rehearsals: no traffic of the monitors, no quality, no data to retrain on. Exit
    code 1 if the promises do not hold at the traffic of the last hour, 4 if that is not clear.
    """
    from doorstep.cli import bench_view, benching
    from doorstep.serve.calibration import calibrate
    from doorstep.serve.capacity import Traffic, size

    if calibrate_only:
        found = calibrate()
        return emit(found, f"{found.cpu_ms:.2f} ms of CPU, {found.cores} cores", as_json=json)
    if not service:
        raise typer.BadParameter("name a service, or --calibrate")
    users = Traffic(per_user=per_user, peak=peak, price=price)
    for one in load:
        size(one, 1.0, users)  # a load that cannot be read is said before, not after
    other = benching.read_calibration(calibration) if calibration else None
    with connect(url, home) as client, progress() as shown:
        subject = benching.find_subject(client, service, source, live=live, ca=ca)
        run = benching.Run(subject, seconds, connections, shown).measured()
    result = benching.conclude(subject, run, tuple(load), users, other)
    if plot is not None:
        bench_view.write_plot(result, plot)
        done(f"wrote {plot}")
    emit(result, lambda: bench_view.text(result), as_json=json)
    raise typer.Exit({"kept": 0, "broken": 1, "unclear": 4}[result.verdict])
