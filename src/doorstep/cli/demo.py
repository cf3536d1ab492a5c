"""`doorstep demo`: the whole journey once, on real data, with processes that really run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doorstep.cli.options import Home, Json

if TYPE_CHECKING:
    from doorstep.cli.demo_world import World

LOOK_S = 0.5
INTERRUPTED = 130


def add_to(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    home: Home = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Leave the console open until Ctrl-C.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Of the split and of the traffic.")] = 7,
    json: Json = False,
) -> None:
    """Run the whole journey on real data: train, gate, release, roll back, watch, explain."""
    import signal
    import tempfile

    from doorstep.cli.demo_summary import run_story, summary_text, where_to_look
    from doorstep.cli.demo_world import open_world
    from doorstep.cli.output import emit, note, progress

    folder = Path(home).absolute() if home else Path(tempfile.mkdtemp(prefix="doorstep-demo-"))
    _forget_own_server()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with progress() as shown:
        world = open_world(folder, seed, shown)
        try:
            summary = run_story(world)
            if summary.told:
                note(where_to_look(world, stays_up=wait))
            emit(summary, lambda: summary_text(summary), as_json=json)
            if wait and summary.told:
                _leave_open(world)
        except (KeyboardInterrupt, RuntimeError) as error:
            # Where Ctrl-C meets a query, DuckDB says so in an error of its own.
            if isinstance(error, RuntimeError) and "interrupted" not in str(error):
                raise
            raise typer.Exit(INTERRUPTED) from None
        finally:
            shown.stage("stopping")
            world.close()
    raise typer.Exit(0 if summary.told else 1)


def _forget_own_server() -> None:
    """The demo has a server, keys and a database of its own; the user's are not for it."""
    import os

    for name in [name for name in os.environ if name.startswith("DOORSTEP_")]:
        del os.environ[name]


def _leave_open(world: World) -> None:
    """Until Ctrl-C, or until somebody stops the server."""
    import time

    from doorstep.cli.output import note

    note("\nEverything is still running. Ctrl-C stops it.")
    try:
        while world.is_up():
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        note("")
