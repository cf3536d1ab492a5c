"""Who must say yes to a release, and who may: a rule is loosened only by the people it asks for.

Until as many of them as it asks for have said yes to the looser revision of the service file, the
stricter rule goes on. Who applied the revision is none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from doorstep.core.servicefile import ServiceFile


class Policy(msgspec.Struct, frozen=True):
    """people: how many say yes to a release. approve, promote: who may, by name; () is anybody."""

    people: int = 0
    approve: tuple[str, ...] = ()
    promote: tuple[str, ...] = ()

    @property
    def guards(self) -> int:
        """How many must say yes to a looser rule: one, where only names are guarded."""
        return self.people or int(bool(self.approve or self.promote))


class Revised(msgspec.Struct, frozen=True):
    """One revision of the file, its rule, and who applied it."""

    revision: int
    by: str
    policy: Policy


class InForce(msgspec.Struct, frozen=True):
    """waiting: the newest revision, if it is looser than `agreed`, the rule before it; else 0. It
    needs the yes of `agreed.guards` people, and `given` gave it. by: who applied it."""

    policy: Policy
    waiting: int = 0
    by: str = ""
    given: tuple[str, ...] = ()
    agreed: Policy = Policy()

    @property
    def loosened_from(self) -> Policy:
        """What the next revision may not ask less than, without a yes."""
        return self.agreed if self.waiting else self.policy


def policy_of(file: ServiceFile) -> Policy:
    return Policy(file.approve.people, file.may.approve, file.may.promote)


def in_force(revisions: Iterable[Revised], yes: Mapping[int, Collection[str]]) -> InForce:
    """The rule that holds after these revisions, oldest first. yes: who said so to a revision.

    A revision that waits takes with it what it made stricter when the next one comes: else a
    mistake and its undoing could leave a rule that nobody can meet, nor loosen."""
    agreed, held = Policy(), InForce(Policy())
    for one in revisions:
        given = {name for name in yes.get(one.revision, ()) if is_named(name, agreed.approve)}
        others = tuple(sorted(given - {one.by}))
        if strictest(agreed, one.policy) == one.policy or len(others) >= agreed.guards:
            agreed, held = one.policy, InForce(one.policy)
        else:
            both = strictest(agreed, one.policy)
            held = InForce(both, one.revision, one.by, others, agreed)
    return held


def strictest(before: Policy, after: Policy) -> Policy:
    """The stricter of both in each part; names that neither contains stay as they were."""
    return Policy(
        max(before.people, after.people),
        _narrower(before.approve, after.approve),
        _narrower(before.promote, after.promote),
    )


def looser_keys(before: Policy, after: Policy) -> frozenset[str]:
    """Of the service file: where `after` asks less than `before`."""
    both = strictest(before, after)
    parts = {
        "approve.people": both.people == after.people,
        "may.approve": both.approve == after.approve,
        "may.promote": both.promote == after.promote,
    }
    return frozenset(key for key, is_kept in parts.items() if not is_kept)


def is_named(name: str, names: tuple[str, ...]) -> bool:
    return not names or name in names


def _narrower(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    if not before:
        return after
    return after if after and set(after) <= set(before) else before
