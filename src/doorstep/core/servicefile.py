"""The service file `doorstep.yaml`: what a service promises, read strictly into values.

Everything that is wrong is reported together, each with line, column, what was found, what was
expected and the nearest known key. Differences of an environment are merged into the file before it
is read, so that they obey the same rules; those of the other environments are checked as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from doorstep.core.condition import Condition, Quantity
from doorstep.core.errors import InputError
from doorstep.core.filekeys import (
    PROBLEMS_MAX,
    Problem,
    Reading,
    credential_in,
    join,
    shown,
    suggestion,
)
from doorstep.core.filereaders import Group, ListOf, Word
from doorstep.core.filewords import GOAL_METRICS, condition, name, show_duration, text
from doorstep.core.ids import parse_name
from doorstep.core.servicefile_people import (
    APPROVAL,
    Approval,
    ExplainSpec,
    MaySpec,
    PrivacySpec,
    RetrainSpec,
    ReviewRule,
)
from doorstep.core.servicefile_risk import RiskDefaults, defaults_of
from doorstep.core.servicefile_running import (
    OF_OUTCOMES,
    AlertSpec,
    MonitorSpec,
    ReleaseSpec,
    ServeSpec,
)
from doorstep.core.servicefile_types import (
    ContractSpec,
    DataSetsSpec,
    GatesSpec,
    IdsSpec,
    ModelSpec,
    RuntimeSpec,
)
from doorstep.core.servicefile_watch import WatchSpec
from doorstep.core.yamltext import Fault, Mapping, Node, Scalar, compose, walk_scalars

FORMAT = 1
ENVIRONMENTS_MAX = 16
HINT = "doorstep check --explain"
APPLY_HINT = "correct doorstep.yaml, then: doorstep apply"
STORED_KEPT = 2048
FIXED_KEYS = ("doorstep", "service", "environments")
"""What an environment cannot change."""

Risk: TypeAlias = Literal["low", "medium", "high"]


def _parse_format(scalar: Scalar) -> int:
    if scalar.value != FORMAT or isinstance(scalar.value, bool):
        raise ValueError
    return FORMAT


class Differences(msgspec.Struct, frozen=True):
    """The key `environments`: reads the names; their contents are read merged into the file."""

    expected: str = "a mapping {ENVIRONMENT: {only the differences}}"

    def fits(self, node: Node) -> bool:
        return isinstance(node, Mapping)

    def read(self, node: Node, path: str, reading: Reading) -> Any:
        if not isinstance(node, Mapping):
            reading.problem(node, path, f"found {shown(node)}, expected {self.expected}")
            return msgspec.UNSET
        if len(node.pairs) > ENVIRONMENTS_MAX:
            reading.problem(node, path, f"{len(node.pairs)}, expected at most {ENVIRONMENTS_MAX}")
            return msgspec.UNSET
        for key, child in node.pairs:
            self._check(key, child, path, reading)
        return tuple(key.text for key, _ in node.pairs)

    def _check(self, key: Scalar, child: Node, path: str, reading: Reading) -> None:
        where = join(path, shown(key))
        try:
            parse_name(key.text, "environment")
        except InputError as error:
            reading.problem(key, where, error.message)
        if not isinstance(child, Mapping):
            reading.problem(child, where, f"found {shown(child)}, expected only the differences")
            return
        for inner, _ in child.pairs:
            if inner.text in FIXED_KEYS:
                reading.problem(inner, join(where, inner.text), "is the same in every environment")

    def show(self, value: Any) -> Any:
        return list(value)

    def schema(self, partial: bool) -> dict[str, Any]:  # noqa: ARG002
        return {"type": "object", "maxProperties": ENVIRONMENTS_MAX}


class ServiceFile(msgspec.Struct, frozen=True, kw_only=True):
    """One service. environment: whose differences are in it, "" for none. written: the paths that
    the file gives; everything else is a default."""

    format: Annotated[
        int,
        Word(f"{FORMAT}", _parse_format, {"const": FORMAT}),
        "format of this file",
        "1: the only one; write it, so that a later Doorstep knows",
    ] = msgspec.field(default=FORMAT, name="doorstep")
    service: Annotated[str, name("service"), "stable name that clients call"]
    purpose: Annotated[str, text("a sentence"), "what it is for", "none"] = ""
    owner: Annotated[str, text("a team"), "team that permissions and alerts follow", "none"] = ""
    risk: Annotated[
        Risk,
        "your tier; sets the defaults of approve, review and privacy, claims nothing legal",
        "low: nobody said that more is at stake",
    ] = "low"
    regimes: Annotated[
        tuple[str, ...],
        ListOf(text("a regime such as eu-ai-act/high-risk", r"[a-z0-9-]+(/[a-z0-9-]+)?")),
        "what your compliance says applies; selects reports",
        "none",
    ] = ()
    goal: Annotated[
        Condition | None,
        condition("default_rate <= 0.24", GOAL_METRICS),
        "the business promise, measured live per version",
        "none",
    ] = None
    ids: Annotated[IdsSpec, "which fields identify what"] = IdsSpec()
    model: Annotated[ModelSpec, "what the model answers"]
    runtime: Annotated[RuntimeSpec, "what it runs in"] = RuntimeSpec()
    data: Annotated[DataSetsSpec | None, Group(DataSetsSpec), "where the tables are"]
    watch: Annotated[
        WatchSpec | None,
        Group(WatchSpec),
        "which column is what, of answers that another service gives",
        "none: Doorstep serves it",
    ] = None
    contract: Annotated[ContractSpec, "what a caller may send"] = ContractSpec()
    gates: Annotated[GatesSpec, "what a version must pass before a release"] = GatesSpec()
    release: Annotated[ReleaseSpec, "how a version is carried onto its service"] = ReleaseSpec()
    serve: Annotated[ServeSpec, "how requests are answered"] = ServeSpec()
    monitor: Annotated[MonitorSpec, "what is watched"] = MonitorSpec()
    alert: Annotated[
        tuple[AlertSpec, ...],
        ListOf(Group(AlertSpec), most=20),
        "who is told",
        "the console, about every finding",
    ] = (AlertSpec(),)
    explain: Annotated[ExplainSpec, "the reasons that an answer gives"] = ExplainSpec()
    review: Annotated[
        tuple[ReviewRule, ...],
        ListOf(Group(ReviewRule), most=20),
        "which predictions a person looks at",
        "by risk: low none; medium 1 % at random; high also where confidence is below 0.6",
    ] = ()
    retrain: Annotated[RetrainSpec, "when it is trained again"] = RetrainSpec()
    privacy: Annotated[PrivacySpec, "what is kept"] = PrivacySpec()
    approve: Annotated[Approval, APPROVAL, "who says yes to a release"] = Approval()
    may: Annotated[MaySpec, "who may, by name"] = MaySpec()
    environments: Annotated[tuple[str, ...], Differences(), "only what differs there", "none"] = ()
    environment: str = ""
    written: tuple[str, ...] = ()

    @classmethod
    def defaults_for(cls, written: dict[str, Any]) -> dict[str, Any]:
        """A service that is only watched has no model here, so no rows to prove one on."""
        return {"data": None} if written.get("watch") is not None else {}

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.model.label in self.contract.inputs:
            where = f"contract.inputs.{self.model.label}"
            yield where, "is the label; a model that is given it is told the answer"
        if self.monitor.outcomes.delay_s >= self.privacy.keep_s:
            delay, keep = map(show_duration, (self.monitor.outcomes.delay_s, self.privacy.keep_s))
            said = f"is {delay}, and predictions are kept for {keep} (privacy.keep)"
            yield "monitor.outcomes.delay", f"{said}: they are gone when they could be judged"
        yield from self._fallback_faults()
        yield from self._goal_faults()
        yield from self._outcome_faults()
        for part, fields in (("inputs", self.contract.inputs), ("context", self.contract.context)):
            for written, spec in fields.items():
                if spec.personal == "seal" and not (self.ids.subject or self.ids.key):
                    said = "a sealed field is somebody's; expected ids.subject or ids.key"
                    yield f"contract.{part}.{written}.personal", said
        if not self.contract.context:
            return
        for index, wave in enumerate(self.release.waves):
            for field, values in wave.match.items():
                where = f"release.waves[{index}].match.{field}"
                if field not in self.contract.context:
                    near = suggestion(field, list(self.contract.context))
                    yield where, f"is not in contract.context{near}"
                    continue
                known = self.contract.context[field].values
                if known and not set(known) & set(values):
                    yield where, f"has none of its values; it has {', '.join(known[:5])}"

    def _goal_faults(self) -> Iterator[tuple[str, str]]:
        if self.goal is None:
            return
        name = self.goal.left
        if self.goal.operator in ("==", "!=") or not isinstance(self.goal.right, Quantity):
            yield "goal", "is a bound on a number; expected <=, >=, < or > and a number"
        if name == "conversion" and not self.monitor.outcomes.delay_s:
            said = "conversion needs monitor.outcomes.delay: until then a case may still convert"
            yield "goal", said
        if name == "mean_value" and not self.monitor.outcomes.unit:
            yield "goal", "mean_value needs monitor.outcomes.unit: what the values of cases are in"
        if name == "selection_rate" and not self.model.favourable:
            yield "goal", "selection_rate needs model.favourable: the label that is counted"

    def _outcome_faults(self) -> Iterator[tuple[str, str]]:
        """A case without an outcome says something only once its time is over."""
        experiment, delay_s = self.release.experiment, self.monitor.outcomes.delay_s
        asked = [(f"guardrails[{at}]", one.name) for at, one in enumerate(self.release.guardrails)]
        asked += [("experiment.metric", experiment.metric)] if experiment else []
        for key, metric in asked:
            if metric in OF_OUTCOMES and not delay_s:
                said = f"{metric} is a metric without outcomes; expected monitor.outcomes.delay"
                yield f"release.{key}", f"{said}, after which a case that has none counts as none"
            if metric == "revenue" and not self.monitor.outcomes.unit:
                said = "revenue is a metric without values; expected monitor.outcomes.unit"
                yield f"release.{key}", said
        if experiment and experiment.metric in OF_OUTCOMES and experiment.for_s <= delay_s:
            said = "is no longer than monitor.outcomes.delay, so no outcome would ever count"
            yield "release.experiment.for", said

    def _fallback_faults(self) -> Iterator[tuple[str, str]]:
        fields = [*self.contract.inputs, *self.contract.context]
        for index, step in enumerate(self.serve.fallback):
            if fields and step.when is not None and step.when.left not in fields:
                near = suggestion(step.when.left, fields)
                yield f"serve.fallback[{index}].when", f"is about no field of the contract{near}"


ROOT = Group(ServiceFile, checks_always=True)


def parse_service_file(
    source: str | bytes, name: str = "doorstep.yaml", environment: str | None = None
) -> ServiceFile:
    """The service file with the differences of `environment`, if it has any for it.

    Raises: InputError (`bad-service-file`) that lists every problem as `file:line:column: ...`.
    """
    found, problems = read_service_file(source, environment)
    if found is None or problems:
        raise InputError("bad-service-file", _described(name, problems), HINT)
    return found


def _described(name: str, problems: Sequence[Problem]) -> str:
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"  {name}:{describe_problem(one)}" for one in problems]
    return "\n".join([f"{name} has {count}", *lines])


@lru_cache(maxsize=STORED_KEPT)
def read_stored(
    text: str, environment: str | None = None
) -> tuple[ServiceFile | None, tuple[Problem, ...]]:
    """A revision that was accepted once, and what is wrong with it by now: rules that came later do
    not make it unreadable. None where it says what this Doorstep does not understand."""
    found, problems = read_service_file(text, environment)
    return (found if all(one.is_rule for one in problems) else None), problems


RULES = ("risk", "approve", "may")
_LEAST = """\
doorstep: 1
service: any
model: {task: binary, label: any}
data: {holdout: {path: any.csv}}
"""


def read_rules(text: str, environment: str | None = None) -> ServiceFile | None:
    """A file of which only RULES are as in `text`, whatever else there this Doorstep does not
    understand: a newer one may have applied it. How many must say yes is as for high risk where
    it does not understand that. None for what is no file at all."""
    root, least = compose(text), compose(_LEAST)
    if not isinstance(root, Mapping) or not isinstance(least, Mapping):
        return None
    merged = _merged(root, environment) if environment else root
    rules = (pair for pair in merged.pairs if pair[0].text in RULES)
    problems: set[Problem] = set()
    tree = Mapping((*least.pairs, *rules), root.line, root.column)
    found = _read_tree(tree, environment or "", problems)
    wrong = {one.path for one in problems}
    unknown = wrong & {"approve", "approve.people"}
    if found is None or not (unknown or ("risk" in wrong and not found.approve.people)):
        return found
    return msgspec.structs.replace(found, approve=Approval(people=defaults_of("high", None).people))


def stored_service_file(text: str, environment: str | None = None) -> ServiceFile:
    """A revision that was accepted once. Raises: InputError (`unreadable-service-file`)."""
    found, problems = read_stored(text, environment)
    if found is None:
        raise InputError(
            "unreadable-service-file",
            f"this Doorstep cannot read a file that was applied: {_described('it', problems)}",
            APPLY_HINT,
        )
    return found


def describe_problem(problem: Problem) -> str:
    """`line:column: path: what is wrong`."""
    path = f"{problem.path}: " if problem.path else ""
    return f"{problem.line}:{problem.column}: {path}{problem.message}"


def read_service_file(
    source: str | bytes, environment: str | None = None
) -> tuple[ServiceFile | None, tuple[Problem, ...]]:
    """The file and everything that is wrong with it, by line; None where it cannot be made."""
    root = compose(source)
    if isinstance(root, Fault):
        return None, (Problem(root.line, root.column, "", root.message),)
    if not isinstance(root, Mapping):
        expected = "expected a mapping with at least service, model and data"
        return None, (Problem(root.line, root.column, "", f"found {shown(root)}, {expected}"),)
    if newer := _newer_format(root):
        return None, (newer,)
    problems = set(_credentials(root))
    names = _environment_names(root)
    found = _read_tree(root, "", problems)
    for one in names:
        with_differences = _read_tree(_merged(root, one), one, problems)
        found = with_differences if one == environment else found
    return found, tuple(sorted(problems)[:PROBLEMS_MAX])


def _newer_format(root: Mapping) -> Problem | None:
    node = root.get("doorstep")
    value = node.value if isinstance(node, Scalar) else None
    if node is None or isinstance(value, bool) or not isinstance(value, int) or value <= FORMAT:
        return None
    message = f"format {shown(node)} is newer than {FORMAT}; install a newer Doorstep to read it"
    return Problem(node.line, node.column, "doorstep", message)


def _credentials(root: Mapping) -> Iterator[Problem]:
    for scalar in walk_scalars(root):
        if kind := credential_in(scalar.text):
            message = f"looks like {kind}; write {{secret: NAME}}, an operator declares the value"
            yield Problem(scalar.line, scalar.column, "", message, is_rule=True)


def _environment_names(root: Mapping) -> list[str]:
    """Environments whose differences can be merged; what is wrong with others is said elsewhere."""
    node = root.get("environments")
    if not isinstance(node, Mapping) or len(node.pairs) > ENVIRONMENTS_MAX:
        return []
    return [key.text for key, child in node.pairs if isinstance(child, Mapping)]


def _merged(root: Mapping, environment: str) -> Mapping:
    environments = root.get("environments")
    over = environments.get(environment) if isinstance(environments, Mapping) else None
    if not isinstance(over, Mapping):
        return root
    kept = tuple(pair for pair in over.pairs if pair[0].text not in FIXED_KEYS)
    return _merge(root, Mapping(kept, over.line, over.column))


def _merge(base: Mapping, over: Mapping) -> Mapping:
    """Mappings are merged key by key; anything else is replaced whole."""
    pairs = {key.text: (key, child) for key, child in base.pairs}
    for key, child in over.pairs:
        before = pairs.get(key.text)
        if before and isinstance(before[1], Mapping) and isinstance(child, Mapping):
            pairs[key.text] = (before[0], _merge(before[1], child))
        else:
            pairs[key.text] = (key, child)
    return Mapping(tuple(pairs.values()), base.line, base.column)


def _read_tree(root: Mapping, environment: str, problems: set[Problem]) -> ServiceFile | None:
    reading = Reading()
    found = ROOT.read(root, "", reading)
    made: ServiceFile | None = None
    if found is not msgspec.UNSET:
        written = tuple(sorted(reading.at))
        made = with_risk_defaults(
            msgspec.structs.replace(found, environment=environment, written=written)
        )
        _check_named(made, reading)
    problems.update(reading.problems)
    return made


def _check_named(made: ServiceFile, reading: Reading) -> None:
    """That as many are named as must say yes: nobody else could loosen the rule again."""
    need, named = made.approve.people, made.may.approve
    if named and len(named) < need:
        message = (
            f"names {', '.join(named)}; expected at least {need}, as many as must say yes "
            f"(approve.people{'' if 'approve.people' in made.written else f' of risk {made.risk}'})"
        )
        reading.problem_at(reading.at["may.approve"], "may.approve", message, is_rule=True)


def with_risk_defaults(service_file: ServiceFile) -> ServiceFile:
    """What the file leaves open about approval, review and privacy, by its risk tier."""
    written = frozenset(service_file.written)
    tier: RiskDefaults = defaults_of(service_file.risk, service_file.model.task)
    changes: dict[str, Any] = {}
    if "approve.people" not in written:
        changes["approve"] = Approval(people=tier.people)
    if "review" not in written:
        changes["review"] = tier.review
    if "privacy.keep" not in written:
        changes["privacy"] = PrivacySpec(keep_s=tier.keep_s)
    return msgspec.structs.replace(service_file, **changes)
