"""The command line: thin. A command finds the server, calls one operation, prints its answer.

Nothing heavy is imported here or at the top of a command module: `doorstep --help` reads only
typer. Exit codes: 0 done or pass, 1 refused or fail, 2 usage, 3 our fault, 4 inconclusive or timed
out waiting, 5 not reachable or not signed in.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from doorstep.cli import (
    commands_apply,
    commands_bench,
    commands_govern,
    commands_release,
    commands_start,
    commands_traffic,
    commands_use,
    commands_version,
    demo,
)
from doorstep.core.errors import DoorstepError, InputError

EXIT_CODES = {
    "usage": 2,
    "missing-extra": 2,
    "input": 1,
    "not-found": 1,
    "refused": 1,
    "forbidden": 5,
    "sign-in": 5,
    "unreachable": 5,
    "overloaded": 4,
    "waited": 4,
}
OUR_FAULT = 3


def build() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="doorstep",
        help="The last mile for machine-learning models: check, serve, release on evidence, "
        "watch, explain, roll back, and prove afterwards what happened and why.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(invoke_without_command=True)(_common)
    for commands in (
        demo,
        commands_start,
        commands_version,
        commands_apply,
        commands_release,
        commands_traffic,
        commands_use,
        commands_bench,
        commands_govern,
    ):
        commands.add_to(app)
    return app


def _common(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("doorstep"))
        raise typer.Exit


def main() -> None:
    """The console script. Every error ends here, as one message and an exit code."""
    # httpx would load a command line of its own, which is a quarter of what a command costs.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    try:
        build()(standalone_mode=True)
    except DoorstepError as error:
        _say(error)
        sys.exit(EXIT_CODES.get(error.kind, 1))
    except BrokenPipeError:  # before OSError, which it is too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            _tell_fault()
        _say(_of_file(error))
        sys.exit(1)
    except Exception:  # noqa: BLE001  the edge of the process
        _tell_fault()


def _tell_fault() -> NoReturn:
    import traceback

    traceback.print_exc()
    print(
        "\ninternal-error: this is a fault of Doorstep's, not yours\n\n"
        "hint: please report the lines above; doorstep doctor says what is installed",
        file=sys.stderr,
    )
    sys.exit(OUR_FAULT)


def _of_file(error: OSError) -> DoorstepError:
    """A file that cannot be read or written as the system says: a folder, no permission, full."""
    return InputError(
        "bad-file",
        f"{error.filename} cannot be used: {error.strerror}",
        "name a file that you may read or write",
    )


def _say(error: DoorstepError) -> None:
    if "--json" in sys.argv:
        import msgspec

        from doorstep.cli.pointing import reachable

        body = {
            "error": {
                "kind": error.kind,
                "code": error.code,
                "message": error.message,
                "hint": reachable(error.hint, sys.argv),
            }
        }
        sys.stdout.buffer.write(msgspec.json.encode(body) + b"\n")
    from doorstep.cli.output import fail, note

    fail(f"{error.code}: {error.message}")
    if error.hint:
        note(f"\nhint: {error.hint}")


if __name__ == "__main__":
    main()
