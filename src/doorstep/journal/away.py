"""Where the listed files are: here, or in an object store, from which they are fetched.

`store.json` of the home says which store. `store/<place>/` is what this home has of it: files that
were fetched for a question (a bounded cache), and of other homes' nodes also their lists and
summaries (`mirror`). A node's place in the store is its name and the id of its home's declaration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from doorstep.core.errors import InputError, RefusedError
from doorstep.core.ids import new_id
from doorstep.core.manifest import decode_part
from doorstep.core.plural import plural
from doorstep.journal.index import COMPACTED, INDEX, ListedFile, fold, read_entries
from doorstep.journal.options import DISK_RESERVE_MB, GB, MB
from doorstep.kernel.child import run_child
from doorstep.kernel.files import write_atomic
from doorstep.kernel.store import Store, parse_store

FORMAT = 1
DECLARED = "store.json"
FOLDER = "store"
CACHE_BYTES_MAX = 10 * GB
IN_USE_S = 900
"""A question that was told where a file is has this long to read it."""
ROUNDS_MAX = 100
RESTORED = "restored"
"""Beside a node's list: with which stores what came back from a replica was compared."""
T = TypeVar("T")


class Place(msgspec.Struct, frozen=True):
    """url: "" after `--store none`. id: of this home in every store that it is told of."""

    format: int
    url: str
    id: str

    def of(self, node: str) -> str:
        return f"{node}.{self.id}"


def read_place(home: Path) -> Place | None:
    """None if no store was ever declared. Raises: InputError (`bad-store-file`)."""
    try:
        data = (home / DECLARED).read_bytes()
    except FileNotFoundError:
        return None
    return decode_part(data, Place, "store-file")


def require_store(url: str) -> str:
    """Without its last slash; "" for `none`. Raises: as `parse_store`."""
    return "" if url == "none" else parse_store(url)


def declare(home: Path, url: str) -> None:
    """This home's journal goes to this store from the next start on; `none`: to none.

    Raises: UsageError (`bad-store`), MissingExtraError, RefusedError (`store-needed`)."""
    place = read_place(home)
    wanted = require_store(url)
    if place is not None and place.url != wanted and (count := _only_there(home)):
        raise RefusedError(
            "store-needed",
            f"{place.url} alone has {plural(count, 'file')} of the journal",
            "keep this store, or first raise --journal-max and export what you need",
        )
    id = place.id if place else new_id().hex[-12:]
    _require_once(home, wanted, id)
    write_atomic(home / DECLARED, msgspec.json.encode(Place(FORMAT, wanted, id)))
    if not wanted:
        # What was seen there of other homes cannot be fetched any more: no question is to need it.
        for path in (home / FOLDER).glob(f"*/{INDEX}"):
            shutil.rmtree(path.parent)


def _require_once(home: Path, url: str, id: str) -> None:
    """Of a node whose records came back without this store, it must have none: they would be there
    as another home's, and count twice. Raises: RefusedError (`restored-before`), as Store."""
    marks = (home / "journal").glob(f"*/{RESTORED}")
    without = {one.parent.name for one in marks if {*one.read_text().splitlines()} - {url}}
    if not url or not without:
        return
    places = [one.rpartition(".") for one in Store(url).folders("journal")]
    if doubled := sorted({node for node, _, of in places if node in without and of != id}):
        raise RefusedError(
            "restored-before",
            f"{url} has records of {', '.join(doubled)} of another home, and those of this home "
            "were brought back without it: what is in both would count twice",
            "name a prefix that is empty; or make another home with this store, and restore there",
        )


def _only_there(home: Path) -> int:
    folders = [one for one in (home / "journal").glob("*") if one.is_dir()]
    return sum(
        not (folder / path).exists()
        for folder in folders
        for path in fold(read_entries(folder)).files
    )


def cache_of(folder: Path) -> Path | None:
    """Where fetched files of a node's folder are; None without a store."""
    home = folder.parent.parent
    if folder.parent.name == FOLDER:
        return folder
    place = read_place(home)
    return home / FOLDER / place.of(folder.name) if place else None


def places_of(files: Sequence[tuple[Path, ListedFile]]) -> list[Path]:
    """Every path at which one of these may be read now or once it is fetched."""
    caches = {folder: cache_of(folder) for folder, _ in files}
    found = [(folder, caches[folder], one.path) for folder, one in files]
    here = [folder / path for folder, _, path in found]
    return here + [cache / path for _, cache, path in found if cache is not None]


def locate(files: Iterable[tuple[Path, ListedFile]]) -> list[Path]:
    """Where to read these files, each with its node's folder.

    Raises: RefusedError: some are in the store alone, and `ask_child` fetches them."""
    files = list(files)
    caches = {folder: cache_of(folder) for folder, _ in files}
    found, missing = [], []
    for folder, one in files:
        here, cache = folder / one.path, caches[folder]
        if cache is None:
            found.append(here)
        elif (cached := _touched(cache / one.path)) or here.exists():
            found.append(cached or here)
        else:
            missing.append(f"{folder.parent.name}/{folder.name}/{one.path}")
    if missing:
        said = "ask the control plane, which fetches them"
        raise RefusedError("files-away", "\n".join(missing), said)
    return found


def _touched(path: Path) -> Path | None:
    """None if it is not there; else it is in use from now on."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return None
    return path


def ask_child(
    home: Path,
    module: str,
    request: bytes,
    *,
    timeout_s: float,
    memory_mb: int,
    kept_s: float = 0.0,
) -> bytes:
    """`run_child`; files that turn out to be in the store alone are fetched, and it is asked again:
    the child has neither credentials nor a network to talk to.

    Raises: as `run_child` and `fetch`."""
    return with_files(
        home,
        lambda: run_child(module, request, timeout_s=timeout_s, memory_mb=memory_mb, kept_s=kept_s),
    )


def with_files(home: Path, work: Callable[[], T]) -> T:
    """What `work` returns, once the files that `locate` misses in it were fetched."""
    for _ in range(ROUNDS_MAX):
        try:
            return work()
        except RefusedError as error:
            if error.code != "files-away":
                raise
            fetch(home, error.message.split("\n"))
    raise _too_much(f"{ROUNDS_MAX} times files had to be fetched for it")


def fetch(home: Path, names: Sequence[str], bytes_max: float = CACHE_BYTES_MAX) -> None:
    """Bring listed files into the cache; `names` as `locate` says them. One that is not listed any
    more is passed over: who asks again sees why.

    Raises: RefusedError (`store-cache-full`, `store-file-gone`, `store-refused`),
    UnreachableError, InputError (`store-file-changed`), OSError."""
    place = read_place(home)
    if place is None or not place.url:
        raise RefusedError("store-undeclared", "these files are in a store, and none is declared")
    with _locked(home):
        wanted = list(_wanted(home, names))
        _make_room(home, sum(one.bytes for *_, one in wanted), bytes_max)
        store = Store(place.url)
        for name, target, one in wanted:
            _bring(store, name, target, one)


def _wanted(home: Path, names: Sequence[str]) -> Iterator[tuple[str, Path, ListedFile]]:
    """(the object's name, where it goes, what it is to be)."""
    groups: dict[Path, set[str]] = {}
    for name in names:
        parent, node, path = name.split("/", 2)
        groups.setdefault(home / parent / node, set()).add(path)
    for folder, paths in groups.items():
        listed, cache = fold(read_entries(folder)).files, cache_of(folder)
        assert cache is not None
        for path in sorted(paths & listed.keys()):
            if not (cache / path).exists():
                yield f"journal/{cache.name}/{path}", cache / path, listed[path]


@contextlib.contextmanager
def borrowed(home: Path, folder: Path, one: ListedFile, temp: Path) -> Iterator[Path]:
    """A listed file where it is, or fetched into `temp`: for who reads all there are, once, the
    cache has no room. Raises: as `fetch`."""
    there = next((path for path in places_of([(folder, one)]) if path.exists()), None)
    place, cache = read_place(home), cache_of(folder)
    if there is None and place and place.url and cache:
        there = temp / "borrowed.parquet"
        _bring(Store(place.url), f"journal/{cache.name}/{one.path}", there, one)
    yield there or folder / one.path


def _bring(store: Store, name: str, target: Path, one: ListedFile) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    try:
        digest = store.fetch(name, temporary)
        if digest != one.sha256:
            raise InputError(
                "store-file-changed",
                f"{name} in {store.url} has digest {digest[:12]}; the list says {one.sha256[:12]}",
                "restore the object from a version or a backup of the store",
            )
        temporary.replace(target)
    except FileNotFoundError:
        raise RefusedError(
            "store-file-gone",
            f"{name} is listed, and is not in {store.url} (any more)",
            "look whether a rule of the bucket deletes objects",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _make_room(home: Path, bytes: int, bytes_max: float) -> None:
    total = bytes + shrink(home, bytes_max - bytes)
    if total > bytes_max:
        raise _too_much(f"{total / GB:.1f} GB of files; the cache has {bytes_max / GB:.1f} GB")
    free = shutil.disk_usage(home).free - bytes
    if free < DISK_RESERVE_MB * MB:
        raise _too_much(
            f"{bytes / MB:,.0f} MB, after which {free / MB:,.0f} MB of the disk are free"
        )


def shrink(home: Path, bytes_max: float = CACHE_BYTES_MAX) -> int:
    """Let go of cached files that nobody has used for a while, the longest first, until they have
    this size. The size that they have then."""
    cached = []
    for path in (home / FOLDER).glob(f"*/{COMPACTED}/*.parquet"):
        with contextlib.suppress(FileNotFoundError):
            cached.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in cached)
    for used_at, size, path in sorted(cached):
        if total <= bytes_max or time.time() - used_at < IN_USE_S:
            break
        path.unlink(missing_ok=True)
        total -= size
    return total


def _too_much(said: str) -> RefusedError:
    return RefusedError(
        "store-cache-full",
        f"what is asked needs files of the store: {said}",
        "narrow --since and --until, or ask again in a quarter of an hour",
    )


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process fetches at a time: two that need the same file fetch it once."""
    (home / FOLDER).mkdir(exist_ok=True)
    fd = os.open(home / FOLDER / ".lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
