"""What the supervisor gives its workers: the plan with every digest resolved to a local path.

    <state>/plan-<generation>.json   NodePlan, for the workers
    <state>/plan.json                the last one that every worker served: what a restart begins
                                     with, and what the shadow scorer reads

Between supervisor and worker goes one frame (`wire.py`) per message on a Unix socket pair.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorstep.core.errors import NotFoundError
from doorstep.core.plan import ApiKey, ServicePlan, VersionPlan
from doorstep.journal.options import JournalOptions
from doorstep.serve.observe_options import ObserveOptions
from doorstep.serve.tls import TlsFiles

FORMAT = 1
PLAN_FILE = "plan.json"
SUPERVISOR_FILE = "supervisor"
LISTENER_SOCKET = "listener.sock"
MESSAGE_CHARS_MAX = 1000


class NodePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """generation: rises with every change on this node. bundles: folder of bundles by digest.
    engines: engine key -> Unix socket of a warm engine. held_back: services that are not as plan
    `number` has them, because that could not be loaded: they are as before, or left out. unloaded:
    `service@N` that must not be loaded, because its bundle is broken or its engine does not start:
    its fallback chain answers. keys: always those of the newest plan. node_share: this node's part
    of every limit. sealing: hex, see `kernel/keys.py`; "" where the home has no such key."""

    format: int
    generation: int
    term: int
    number: int
    environment: str
    bundles: str
    lease_s: float
    services: tuple[ServicePlan, ...]
    engines: dict[str, str]
    held_back: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    node_share: float = 1.0
    sealing: str = ""


SHADOW_PLACES = 64
"""Segments that a node's shadow compares at once: as many as one file of cells has room for."""


def in_shadow(plan: NodePlan) -> tuple[tuple[ServicePlan, ...], tuple[str, ...]]:
    """Services whose challenger is scored in shadow, by name as far as there is room for their
    segments; and what is said of the others, of which nothing is scored."""
    scored, said, places = [], [], 0
    for one in sorted(plan.services, key=lambda one: one.service):
        if one.release is None or one.release.state != "shadow":
            continue
        segments = len(one.segments) + 1
        if places + segments <= SHADOW_PLACES:
            places += segments
            scored.append(one)
        else:
            said.append(
                f"{one.service}@{one.release.challenger} is not scored in shadow on this node: its "
                f"{segments} segments are not compared, since those of others take {places} "
                f"of {SHADOW_PLACES} places; it begins when one of their shadows ends"
            )
    return tuple(scored), tuple(said)


def sealing_of(home: Path) -> str:
    """What the workers of a node seal personal fields with; "" if the home has no key for it.

    Raises: RefusedError (`key-not-private`), InputError (`bad-key`)."""
    from doorstep.kernel.keys import load_personal_key  # workers have no need of its library

    try:
        return load_personal_key(home / "keys").sealing.hex()
    except NotFoundError:
        return ""


class FrontOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every front worker of a node is started with. run: id of this supervisor's life.
    listen: the shared listening socket; rpc: that of gRPC, if it is served; alive: a descriptor
    that says that workers live here (`orphan.hold_alive`). models_bytes: what it may take for the
    models that it scores itself. predict_route, health_route: paths that Vertex AI chose
    (`jsonrows.py`). workers: how many share this node's part of a limit. guarded: others reach this
    node over the network, so that everything needs an API key. tls: None: plain."""

    state: str
    journal: str
    node: str
    run: str
    listen: int
    alive: int
    models_bytes: int
    predict_route: str = ""
    health_route: str = ""
    rpc: int | None = None
    workers: int = 1
    guarded: bool = False
    tls: TlsFiles | None = None
    observe: ObserveOptions = ObserveOptions()
    keep: JournalOptions = JournalOptions()


class FrontStart(msgspec.Struct, frozen=True, kw_only=True):
    """The one argument of a front worker's process, as JSON. slot: name of this life in its slot.
    link: its end of the socket pair to the supervisor. place: of the slot among the workers."""

    options: FrontOptions
    slot: str
    link: int
    cells: str
    place: int = 0


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Load the plan file of this generation."""

    generation: int


class Lease(msgspec.Struct, frozen=True, tag="lease"):
    """held False: give the challenger's share to the champion until it is True again. left_s: what
    is left of it when this is said, for a worker that loses its supervisor."""

    held: bool
    left_s: float = 0.0


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Accept nothing more, finish what is there, exit."""

    grace_s: float


class Sleep(msgspec.Struct, frozen=True, tag="sleep"):
    """The engines at these sockets, and no others, sleep: hang up when nothing is under way."""

    sockets: tuple[str, ...]


class Serves(msgspec.Struct, frozen=True, tag="serves"):
    """held_back: services that this worker does not serve as plan `number` has them. unloaded: why
    it could not load a `service@N` whose fallback chain answers, empty where it was told not to."""

    generation: int
    number: int
    held_back: tuple[str, ...] = ()
    unloaded: dict[str, str] = {}


class Refuses(msgspec.Struct, frozen=True, tag="refuses"):
    """The plan, or these services of it, could not be loaded; what was served serves on."""

    generation: int
    why: str
    services: tuple[str, ...] = ()


class Trouble(msgspec.Struct, frozen=True, tag="trouble"):
    """A problem by topic; an empty `what` says that it is over."""

    topic: str
    what: str


class Hung(msgspec.Struct, frozen=True, tag="hung"):
    """The engine at this socket is connected and answers nothing."""

    socket: str


class Wake(msgspec.Struct, frozen=True, tag="wake"):
    """Somebody asks the engine at this socket, which sleeps."""

    socket: str


class Full(msgspec.Struct, frozen=True, tag="full"):
    """The cell file has no room for another release; replace this worker."""


Order = Apply | Lease | Drain | Sleep
Word = Serves | Refuses | Trouble | Hung | Wake | Full


def plan_file(state: Path, generation: int) -> Path:
    return state / f"plan-{generation}.json"


def engine_key(version: VersionPlan) -> str:
    """Names the engine of a version: same bundle, form and trust, same engine."""
    return f"{version.bundle[:24]}-{version.form}{'-trusted' if version.trusted else ''}"
