"""What the operations of services and versions take and give."""

from __future__ import annotations

import msgspec

from doorstep.core.contract import Contract
from doorstep.core.instant import Instant
from doorstep.core.manifest import Manifest, Profile, Task
from doorstep.core.verdict import Finding
from doorstep.kernel.trust import SignedTrust

FILE_BYTES_MAX = 1024 * 1024
NAME_CHARS_MAX = 200


class ApplyService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """file: the text of a service file. name: what to call it in messages, short. over: it is
    applied only if this revision is in effect; None: whichever is."""

    file: str
    name: str = "doorstep.yaml"
    over: int | None = None


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a service file as it is and as it would be, each as the file says it or "".
    loosens: by it something passes a gate or guardrail that would not have passed."""

    key: str
    now: str
    after: str
    takes_effect: str
    loosens: bool


class ServiceDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a file would change. revision: the one in effect, 0 if there is none. is_same:
    the file is that revision, letter by letter; where it is not and nothing changes, only comments
    and layout differ, or what holds in other environments."""

    service: str
    revision: int
    is_same: bool
    changes: tuple[KeyChange, ...]


class ServiceRevision(msgspec.Struct, frozen=True, kw_only=True):
    """created: False if the file is the newest revision already. changed: the keys that differ from
    the revision before."""

    service: str
    revision: int
    applied_at: Instant
    by: str
    created: bool
    changed: tuple[str, ...]


class ShowService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Who must say yes to a release, and who may (() is anybody), as it holds now. waiting: the
    revision of the file that asks for less, and holds once `needs` people have said yes to it; 0 if
    there is none. by: who applied it. given: by whom, so far."""

    people: int
    approve: tuple[str, ...] = ()
    promote: tuple[str, ...] = ()
    waiting: int = 0
    needs: int = 0
    given: tuple[str, ...] = ()
    by: str = ""

    @property
    def said(self) -> str:
        """`approve.people 2, may.approve bea and cem`."""
        may = {"may.approve": self.approve, "may.promote": self.promote}
        names = [f"{key} {' and '.join(one)}" for key, one in may.items() if one]
        return ", ".join([f"approve.people {self.people}", *names])


class Unapproved(msgspec.Struct, frozen=True, kw_only=True):
    """A version that passed its gates and waits for people. missing: how many more at least; who
    asks for its release is none of them. of: the only ones who may say yes; () is anybody."""

    version: str
    by: str
    missing: int
    of: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """champion: number of the version that serves now, None before the first release."""

    service: str
    revision: int
    purpose: str
    owner: str
    risk: str
    task: str
    label: str
    champion: int | None
    last_champion: int | None
    file: str
    created_at: Instant
    rule: Rule = Rule(people=0)
    unapproved: Unapproved | None = None


class ListServices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Services(msgspec.Struct, frozen=True, kw_only=True):
    services: tuple[Service, ...]


class RegisterVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """file: the service file's text. digest: of a bundle that was uploaded. holdout: digest of the
    uploaded hold-out snapshot, "" if there is none. speed_ms_p99: single row, as `register`
    measured it on the form that will serve. trust: the signed statement about everything that
    runs (`vouched_digest` of the manifest), as `doorstep trust` stored it. findings: what
    `register` saw on the caller's machine."""

    file: str
    digest: str
    holdout: str = ""
    speed_ms_p99: float = 0.0
    trust: SignedTrust | None = None
    findings: tuple[Finding, ...] = ()


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What records of a watched version are compared with. said: which rows these were."""

    task: Task
    labels: tuple[str, ...]
    positive: str
    contract: Contract
    profile: Profile
    said: str


class WatchVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """file: the service file's text. name: what the other service calls its version. reference:
    what its records are compared with; None for what the newest watched version has."""

    file: str
    name: str
    reference: Reference | None = None


class ShowVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """version: `loans@3`."""

    version: str


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a version. digest: of its bundle. holdout: digest of its held-out rows or
    ""."""

    service: str
    number: int
    digest: str
    form: str
    placement: str
    trusted: bool
    holdout: str
    speed_ms_p99: float
    registered_at: Instant
    by: str
    findings: tuple[Finding, ...]


class Version(Registered, frozen=True, kw_only=True):
    """created: False if this digest was registered before (its number is given again).
    state: registered, passed or refused (by its gates), serving, retired from serving, killed;
    watched: served elsewhere. `version.show` also says, of one that may be released on what its
    gates say, who said yes to it as it is now, and what it still needs."""

    state: str
    created: bool
    manifest: Manifest
    approved_by: tuple[str, ...] = ()
    unapproved: Unapproved | None = None


class ListVersions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service: str


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    versions: tuple[Version, ...]


class FindMissing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """digests: of files that the caller could upload."""

    digests: tuple[str, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    digests: tuple[str, ...]
