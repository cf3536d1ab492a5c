"""The home: one folder, one environment.

    doorstep.toml            format, id and environment of this home
    doorstep.db              the database, unless it is a PostgreSQL URL
    bundles/<digest>/        versions                data/<digest>.parquet   data that gates read
    plan/ journal/ nodes/    what nodes read and write
    run/                     locks, sockets, control.json: dies with the processes
    keys/                    private, 0700

Finding it is pure; opening it checks that it can be written, that its format is one that this
release reads, and that SQLite may live there.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from doorstep.core.errors import InputError, NotFoundError, RefusedError, UsageError
from doorstep.core.ids import new_id, parse_name
from doorstep.kernel.files import write_atomic
from doorstep.kernel.mounts import Mounts, network_type, read_mounts

FORMAT = 1
HOME_FILE = "doorstep.toml"
FOLDERS = ("bundles", "data", "plan", "journal", "nodes", "run", "keys")
_PRIVATE = ("run", "keys")
_log = logging.getLogger("doorstep.home")


class Home(msgspec.Struct, frozen=True):
    """A home that was opened. id: made once, with the home. environment: `local`, `staging`..."""

    path: Path
    id: str
    environment: str

    @property
    def bundles(self) -> Path:
        return self.path / "bundles"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def plan(self) -> Path:
        return self.path / "plan"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def database_url(self) -> str:
        """The URL of the SQLite database that is used when no other is named."""
        return f"sqlite:///{self.path / 'doorstep.db'}"


def resolve_home(argument: str | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Where the home is: `--home`, DOORSTEP_HOME, `./.doorstep` if present, the user's data folder.

    Looks only at whether `cwd/.doorstep` is a folder; makes and opens nothing. The answer is
    absolute. Raises: UsageError (`home-not-a-folder`) for a URL, (`no-user-folder`).
    """
    named = argument or environ.get("DOORSTEP_HOME")
    if named:
        if "://" in named:
            raise UsageError(
                "home-not-a-folder",
                f"the home {named!r} is a URL; this release keeps its home in a folder",
            )
        return (cwd / Path(named).expanduser()).absolute()
    beside = cwd / ".doorstep"
    return beside.absolute() if beside.is_dir() else user_data_folder(environ, sys.platform)


def user_data_folder(environ: Mapping[str, str], platform: str) -> Path:
    """The platform's folder for the data of one user's programs, `doorstep` in it.

    Raises: UsageError (`no-user-folder`) where nothing says what is this user's."""
    try:
        user = Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        raise UsageError(
            "no-user-folder",
            "HOME is not set, and the system does not know this user's folder",
            "name the home with --home, or in DOORSTEP_HOME",
        ) from None
    if platform == "darwin":
        return user / "Library" / "Application Support" / "doorstep"
    named = environ.get("XDG_DATA_HOME", "")
    base = Path(named) if Path(named).is_absolute() else user / ".local" / "share"
    return base / "doorstep"


def is_home(path: Path) -> bool:
    """Whether a home was made at `path`."""
    return (path / HOME_FILE).is_file()


def open_home(
    path: Path, *, create: bool = False, environment: str = "local", holds_database: bool = True
) -> Home:
    """The home at `path`; with `create`, it is made if it is not there.

    environment: the name that a new home gets. holds_database: whether SQLite will live in it,
    so that a network file system is refused. With `create`, a folder of this user's that others can
    enter is closed to them, and a warning says so.
    Raises: NotFoundError (`no-home`), RefusedError (`home-not-writable`, `home-on-network`,
    `home-too-new`), InputError (`bad-home`).
    """
    if not create and not is_home(path):
        raise NotFoundError("no-home", f"there is no Doorstep home at {path}", "doorstep up")
    if holds_database:
        refuse_network(path.resolve(), read_mounts())
    if create:
        _make(path, parse_name(environment, "environment"))
    home = _read(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise _not_writable(path, "it may only be read")
    return home


def refuse_network(path: Path, mounts: Mounts) -> None:
    """Raises: RefusedError (`home-on-network`) if `path` is where SQLite must not live."""
    file_system = network_type(path, mounts)
    if file_system:
        raise RefusedError(
            "home-on-network",
            f"the home {path} is on a network file system ({file_system}); SQLite needs a local "
            "disk, because network locks do not keep two writers apart",
            "choose a local --home, or --database postgresql://USER@HOST/NAME",
        )


def _make(path: Path, environment: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(path)
        for name in FOLDERS:
            (path / name).mkdir(mode=0o700 if name in _PRIVATE else 0o755, exist_ok=True)
        if not (path / HOME_FILE).exists():
            text = f'format = {FORMAT}\nid = "{new_id()}"\nenvironment = "{environment}"\n'
            write_atomic(path / HOME_FILE, text.encode())
    except OSError as error:
        raise _not_writable(path, error.strerror or str(error)) from error


def _close_to_others(path: Path) -> None:
    """The database and the data in a home are for its owner alone: what is below needs no mode of
    its own then. A folder of somebody else's is left to them."""
    found = path.stat()
    open_to = stat.S_IMODE(found.st_mode) & 0o077
    if open_to and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
        _log.warning("other users could read the home %s; its mode is 0700 now", path)


def _not_writable(path: Path, reason: str) -> RefusedError:
    return RefusedError(
        "home-not-writable",
        f"the home {path} cannot be written ({reason}); expected a folder of yours",
        "choose another with --home or DOORSTEP_HOME, or change its owner",
    )


def _read(path: Path) -> Home:
    file = path / HOME_FILE
    try:
        found = tomllib.loads(file.read_text())
        written = found["format"]
        if type(written) is not int or written < 1:
            raise ValueError(f"format is {written!r}")
    except (OSError, ValueError, KeyError) as error:
        raise _bad(file, error) from error
    if written > FORMAT:
        raise RefusedError(
            "home-too-new",
            f"the home {path} has format {written}; this release reads up to {FORMAT}",
            "pip install --upgrade doorstep",
        )
    try:
        return Home(path, str(found["id"]), parse_name(found["environment"], "environment"))
    except (KeyError, InputError) as error:
        raise _bad(file, error) from error


def _bad(file: Path, error: Exception) -> InputError:
    return InputError(
        "bad-home",
        f"{file} cannot be read ({error}); expected format, id and environment",
        "restore it from a backup, or choose another --home",
    )
