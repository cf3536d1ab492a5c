"""A service as a front worker holds it: its plan, its resident versions, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from doorstep.core.contract import Contract
from doorstep.core.ids import hash_unit
from doorstep.core.plan import REST, FallbackStep, ServicePlan, is_challengers
from doorstep.core.record import Layout, layout_of
from doorstep.journal.masking import Mask
from doorstep.serve.cells import ARMS, CellKey
from doorstep.serve.limits import FALLBACKS_MAX, PATIENCE
from doorstep.serve.rows import RowReader
from doorstep.serve.rule import Rule
from doorstep.serve.version import Version

if TYPE_CHECKING:
    from doorstep.journal.sealing import Sealer


class Service:
    """Immutable once made; a plan that changes makes a new one and swaps the pointer.

    declare: gives a layout's number in this process's journal. slot: gives a cell's number, or
    None where there is no room. challenger: None when its share was given back (the lease).
    versions: those that are resident; one of the plan that is not could not be loaded. labels: of
    each, as `outcome_fault` wants them. has_labels: some answer with a label, for all we know.
    is_disrupted: the champion is not there, or must not be asked. only_engine: the champion's,
    where nobody else can answer a request and it is no evidence. has_engines: of any version.
    plain: the version that is asked for every single row, see `plain.py`; None where there is
    something to decide.
    """

    def __init__(
        self,
        plan: ServicePlan,
        versions: dict[int, Version],
        *,
        lease_held: bool,
        declare: Callable[[Layout], int],
        slot: Callable[[CellKey], int | None],
        reader: RowReader | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self.plan = plan
        self.name = plan.service
        self.versions = versions
        # What a version predicted that is not here now is unknown, so nothing is impossible.
        is_whole = len(versions) == len(plan.versions)
        self.labels = frozenset(one.labels for one in versions.values() if is_whole)
        if self.labels and plan.has_values:
            self.labels |= {()}
        self.has_labels = not versions or any(one.labels for one in versions.values())
        self.champion = None if plan.champion is None else versions.get(plan.champion)
        self.reader = reader or RowReader(plan)
        self.keeps = keeps_of(plan)
        mask = Mask(self.name, plan.contract, (plan.key, plan.unit, plan.subject), sealer)
        self.mask = mask if mask.is_needed else None
        self.timeout_ns = plan.timeout_ms * 1_000_000
        self.patience_ns = int(self.timeout_ns * PATIENCE)
        self.cache_ns = round(plan.cache_s * 1e9)
        self.release = plan.release
        self.watched = lease_held
        for version in versions.values():
            version.killed = version.number in plan.killed
        is_there = self.champion is not None and not self.champion.killed
        self.is_disrupted = plan.champion is not None and not is_there
        links = [self._link(step) for step in plan.fallback[:FALLBACKS_MAX]]
        self.chain = [link for link in links if link is not None]
        # What came while nobody watched, or with nobody to compare with, is no evidence of it.
        is_evidence = lease_held and not self.is_disrupted
        self.release_id = plan.release.id if plan.release and is_evidence else ""
        self.epoch = plan.release.epoch if plan.release else 0
        self.has_groups = plan.release is not None or bool(plan.segments)
        alone = not self.has_groups and all(link is self.champion for link in self.chain)
        self.only_engine = self.champion.engine if alone and self.champion else None
        self.has_engines = any(one.engine for one in versions.values())
        simple = not (self.has_groups or self.is_disrupted or self.cache_ns)
        self.plain = self.champion if simple else None
        self._slot = slot
        self._slots: dict[tuple[str, bool], int | None] = {}
        known = self.champion or next(iter(versions.values()), None)
        self.default_outputs = known.outputs if known else ("value",)
        self.default_layout = declare(layout_of(self.name, plan.contract, self.default_outputs))
        for version in versions.values():
            version.layout = declare(layout_of(self.name, plan.contract, version.outputs))
            version.arrange(self.default_outputs)
        self._declare = declare
        self._bare_layouts: dict[tuple[str, ...], int] = {}

    def layout(self, version: Version | None, *, bare: bool) -> int:
        """Of the records of a version's answers, None if it is nobody's. bare: without columns of
        inputs."""
        if not bare:
            return version.layout if version else self.default_layout
        outputs = version.outputs if version else self.default_outputs
        if outputs not in self._bare_layouts:
            layout = layout_of(self.name, Contract(inputs=()), outputs)
            self._bare_layouts[outputs] = self._declare(layout)
        return self._bare_layouts[outputs]

    def challenges(self, unit: str, segment: str) -> bool:
        """Whether this unit's requests are the challenger's."""
        release = self.release
        if release is None or not self.watched:
            return False
        share = release.shares.get(segment, 0.0)
        return share > 0.0 and is_challengers(release.id, unit, share)

    def share(self, segment: str) -> float:
        if self.release is None or not self.watched:
            return 0.0
        return self.release.shares.get(segment, 0.0)

    def cell(self, segment: str, challenger: bool) -> int | None:
        """The slot of the evidence cell; None if this is no evidence: nothing is, while the
        champion is killed or not loaded and there is nobody to compare with."""
        release = self.release
        if release is None or not self.watched or self.is_disrupted:
            return None
        if release.state != "shadow" and not release.shares.get(segment, 0.0):
            return None  # a wave that is not begun is no control, and room is short
        key = (segment, challenger)
        if key not in self._slots:
            arm = ARMS[challenger]
            self._slots[key] = self._slot(CellKey(release.id, release.epoch, segment, arm))
        return self._slots[key]

    def _link(self, step: FallbackStep) -> Version | Rule | None:
        if step.kind == "answer":
            return Rule("" if step.answer is None else step.answer, step.when, self.reader)
        version = self.versions.get(step.version) if step.version else self.champion
        return None if version is None or version.killed else version

    def next_link(self, step: int, tried: set[int]) -> tuple[int, Version | Rule | None]:
        """The first link of the fallback chain, from `step` on, that has not been tried: the
        position after it, and a version, a declared answer, or None at the end."""
        for at in range(step, len(self.chain)):
            link = self.chain[at]
            if isinstance(link, Rule) or link.number not in tried:
                return at + 1, link
        return len(self.chain), None

    def has_version(self, step: int, tried: set[int]) -> bool:
        """Whether a version that has not been tried is in the chain from `step` on."""
        links = self.chain[step:]
        return any(isinstance(one, Version) and one.number not in tried for one in links)

    @property
    def ready(self) -> bool:
        """Whether somebody can answer: a champion, or a challenger that has everybody."""
        if self.is_disrupted:
            return bool(self.chain)
        if self.champion is not None:
            return self.champion.ready
        return self.release is not None and self.share(REST) > 0


def keep_nothing(_request: str) -> bool:
    return False


def keeps_of(plan: ServicePlan) -> Callable[[str], bool] | None:
    """Whether the inputs of a request are kept, by its id, so that everybody who asks is told the
    same; None if they always are. The records of the others have no columns of inputs."""
    if plan.record == "full":
        return None
    if plan.record == "no-inputs":
        return keep_nothing
    limit = plan.record_share * 2.0**64
    return lambda request: hash_unit("record", request) < limit
