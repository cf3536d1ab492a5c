"""The SDK: every operation of the control plane as a method, over HTTP.

    import doorstep
    with doorstep.connect() as here:
        print(here.status("loans"))

A server is found by, in this order: the `url` argument, DOORSTEP_URL, `run/control.json` of the
home. The token: the argument, DOORSTEP_TOKEN, the home's local token file (mode 0600).
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
import msgspec

from doorstep.core import errors
from doorstep.core.errors import DoorstepError, UnreachableError
from doorstep.core.ids import digest_of
from doorstep.core.outcome import OutcomeGiven
from doorstep.core.people import Scope
from doorstep.core.structs import prepare_structs
from doorstep.explain import surface as _explain
from doorstep.gate import surface as _gate
from doorstep.govern import surface as _govern
from doorstep.journal import exported
from doorstep.journal import surface as _journal
from doorstep.kernel.server import find_server
from doorstep.monitor import surface as _monitor
from doorstep.register import surface as _register
from doorstep.release import surface as _release

AskedP = ParamSpec("AskedP")
AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)
FoundT = TypeVar("FoundT")
Told = Callable[[int, int], None]
READ_TIMEOUT_S = 900.0
"""Gates run while the caller waits; they are bounded by their own limit, which is shorter."""


def _tell_nobody(_bytes: int, _whole: int) -> None: ...


def _finds(
    name: str,
    asked: Callable[AskedP, msgspec.Struct],
    answer: type[AnswerT],
    pick: Callable[[AnswerT], FoundT],
) -> Callable[Concatenate[Client, AskedP], FoundT]:
    """A method that asks the operation `noun.verb`. It takes the fields of what is asked, in their
    order or by name, and answers what `pick` takes of the answer."""

    def method(here: Client, /, *values: AskedP.args, **named: AskedP.kwargs) -> FoundT:
        return pick(here.call(name, asked(*values, **named), answer))

    # As if it were written out, for `help` and for those who look at the types.
    fields = inspect.signature(asked)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown = fields.replace(parameters=[first, *fields.parameters.values()])
    method.__signature__ = shown  # type: ignore[attr-defined]
    method.__annotations__ = {one.name: one.annotation for one in fields.parameters.values()}
    said = [f"Ask `{name}`; the answer is of its {answer.__name__}."]
    own = (vars(kind).get("__doc__") for kind in (asked, answer))  # not their base class's
    method.__doc__ = "\n\n".join(said + [inspect.cleandoc(text) for text in own if text])
    return method


def _asks(
    name: str, asked: Callable[AskedP, msgspec.Struct], answer: type[AnswerT]
) -> Callable[Concatenate[Client, AskedP], AnswerT]:
    """As `_finds`, of the whole answer."""
    method = _finds(name, asked, answer, lambda found: found)
    shown = inspect.signature(method)
    method.__signature__ = shown.replace(return_annotation=answer)  # type: ignore[attr-defined]
    method.__annotations__["return"] = answer
    return method


def connect(
    url: str | None = None, token: str | None = None, home: str | Path | None = None
) -> Client:
    """A client of the control plane that `url`, the environment or `home` names.

    Raises: UnreachableError (`no-server`) if none is found.
    """
    found_url, found_token = find_server(url, token, home, os.environ, Path.cwd())
    return Client(found_url, found_token)


class Client:
    """One connection pool to one control plane. Close it, or use it as a context manager."""

    def __init__(self, url: str, token: str) -> None:
        prepare_structs()
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=5.0),
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, name: str, asked: msgspec.Struct, answer: type[AnswerT]) -> AnswerT:
        """Ask the operation `noun.verb`. Raises: the DoorstepError that the server answered."""
        path = "/" + name.replace(".", "/")
        response = self._send(
            "POST", path, content=msgspec.json.encode(asked), type_="application/json"
        )
        return msgspec.json.decode(response.content, type=answer)

    def _send(self, method: str, path: str, *, content: Any, type_: str) -> httpx.Response:
        try:
            response = self._http.request(
                method, path, content=content, headers={"Content-Type": type_}
            )
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None
        if response.status_code >= 400:
            raise error_from(response.status_code, response.content)
        return response

    def _no_answer(self, error: httpx.HTTPError) -> UnreachableError:
        said = f"{self.url} does not answer: {type(error).__name__}"
        return UnreachableError("no-answer", said, "is it running?  doorstep up -d")

    def invite(self) -> str:
        """A link that signs one browser in to the console, once, within ten minutes."""
        found = self._send("POST", "/session/invite", content=b"{}", type_="application/json")
        return str(msgspec.json.decode(found.content)["url"])

    # services and versions
    apply = _asks("service.apply", _register.ApplyService, _register.ServiceRevision)
    diff = _asks("service.diff", _register.ApplyService, _register.ServiceDiff)
    services = _finds(
        "service.list", _register.ListServices, _register.Services, lambda found: found.services
    )
    service = _asks("service.show", _register.ShowService, _register.Service)
    status = _finds(
        "service.status", _monitor.ShowStatus, _monitor.Statuses, lambda found: found.services
    )
    history = _asks("service.history", _govern.ShowHistory, _govern.History)
    versions = _finds(
        "version.list", _register.ListVersions, _register.Versions, lambda found: found.versions
    )
    version = _asks("version.show", _register.ShowVersion, _register.Version)
    register = _asks("version.register", _register.RegisterVersion, _register.Version)
    watch = _asks("version.watch", _register.WatchVersion, _register.Version)

    def upload(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Upload a bundle's files and others by digest; those that are there are not sent again.

        folder: a built bundle, or a folder to hash; files: digest -> file, for files beside it.
        """
        wanted = {**files, **{_digest(path): path for path in _files(folder)}}
        asked = _register.FindMissing(digests=tuple(sorted(wanted)))
        for digest in self.call("blob.missing", asked, _register.Missing).digests:
            self._send(
                "PUT",
                f"/blobs/{digest}",
                content=_chunks(wanted[digest]),
                type_="application/octet-stream",
            )

    # gates and releases
    run_gates = _asks("gate.run", _gate.RunGates, _gate.GateRun)
    gates = _finds("gate.show", _gate.ShowGates, _gate.GateRuns, lambda found: found.runs)
    approve = _asks("version.approve", _release.ApproveVersion, _release.Approvals)
    withdraw_approval = _asks("version.withdraw", _release.WithdrawApproval, _release.Approvals)
    approve_revision = _asks("service.approve", _release.ApproveRevision, _register.Rule)
    start_release = _asks("release.start", _release.StartRelease, _release.Release)
    estimate_release = _asks("release.estimate", _release.EstimateRelease, _release.Forecast)
    release = _asks("release.show", _release.ShowRelease, _release.Release)
    recompute = _asks("release.recompute", _release.RecomputeRelease, _release.Recomputed)
    releases = _finds(
        "release.list", _release.ListReleases, _release.Releases, lambda found: found.releases
    )
    differences = _asks("release.differences", _release.ShowDifferences, _release.Differences)
    pause = _asks("release.pause", _release.ChangeRelease, _release.Release)
    resume = _asks("release.resume", _release.ChangeRelease, _release.Release)
    promote = _asks("release.promote", _release.ChangeRelease, _release.Release)
    rollback = _asks("service.rollback", _release.Rollback, _release.Release)
    kill = _asks("version.kill", _release.KillVersion, _release.Kill)
    revive = _asks("version.revive", _release.ReviveVersion, _release.Kill)

    # predictions
    prediction = _asks("prediction.show", _journal.ShowPrediction, _journal.Prediction)
    open_prediction = _asks("prediction.open", _journal.OpenPrediction, _journal.Prediction)
    predictions = _finds(
        "prediction.list",
        _journal.ListPredictions,
        _journal.Predictions,
        lambda found: found.predictions,
    )
    explain = _asks("prediction.explain", _explain.ExplainPrediction, _explain.Explanation)
    query = _asks("journal.query", _journal.QueryJournal, _journal.JournalTable)
    traffic = _asks("traffic.count", _journal.CountTraffic, _journal.Traffic)
    mark = _asks("journal.mark", _journal.ShowMark, _journal.Mark)
    keep_mark = _asks("journal.keep-mark", _journal.KeepMark, _journal.Mark)

    def erase(self, subject: str, why: str) -> _journal.Erased:
        """Destroy the key of a person. There is no way back."""
        asked = _journal.EraseSubject(subject=subject, why=why)
        return self.call("subject.erase", asked, _journal.Erased)

    def hold(self, subject: str, why: str, *, ends: bool = False) -> _journal.Held:
        """Keep a person from being erased; or end that."""
        asked = _journal.HoldSubject(subject=subject, why=why, ends=ends)
        return self.call("subject.hold", asked, _journal.Held)

    def export(
        self,
        service: str,
        to: str | Path,
        *,
        since: int = 0,
        until: int = 0,
        kind: str = "",
        outcomes: bool = False,
        force: bool = False,
        told: Told = _tell_nobody,
    ) -> int:
        """Write a service's predictions to a .parquet, .csv or .arrow file; its bytes. outcomes:
        joined. force: replace the file. told: (bytes so far, bytes in all).

        Raises: what the server refuses; UsageError (`bad-suffix`), RefusedError (`file-exists`),
        MissingExtraError, OSError. The file is there whole or not at all.
        """
        target = Path(to)
        suffix = exported.check(target, force)
        asked = _journal.ExportJournal(
            service=service,
            format="csv" if suffix == ".csv" else "parquet",
            since=since,
            until=until,
            kind=kind,
            outcomes=outcomes,
        )
        with exported.written(target, suffix) as part:
            self._download("/journal/export", asked, part, told)
        return target.stat().st_size

    def _download(self, path: str, asked: msgspec.Struct, to: Path, told: Told) -> None:
        content = msgspec.json.encode(asked)
        headers = {"Content-Type": "application/json"}
        try:
            with self._http.stream("POST", path, content=content, headers=headers) as response:
                if response.status_code >= 400:
                    raise error_from(response.status_code, response.read())
                whole = int(response.headers["content-length"])
                with to.open("wb") as file:
                    for chunk in response.iter_bytes(1 << 20):
                        file.write(chunk)
                        told(file.tell(), whole)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None

    def record_outcomes(
        self, service: str, outcomes: Iterable[OutcomeGiven], batch: str = ""
    ) -> int:
        """How many were recorded. batch: a SHA-256; a batch that was recorded before is not."""
        asked = _journal.RecordOutcomes(service=service, outcomes=tuple(outcomes), batch=batch)
        return self.call("outcome.record", asked, _journal.OutcomesRecorded).recorded

    def tell_outcomes(
        self,
        service: str,
        outcomes: Iterable[OutcomeGiven],
        batch: str = "",
        *,
        check: bool = False,
    ) -> _journal.OutcomesRecorded:
        """Record those that can be; which are refused and why. check: record nothing."""
        asked = _journal.RecordOutcomes(
            service=service, outcomes=tuple(outcomes), batch=batch, partial=True, check=check
        )
        return self.call("outcome.record", asked, _journal.OutcomesRecorded)

    def stream_outcomes(self, service: str, lines: Iterable[bytes]) -> _journal.OutcomesTold:
        """Record outcomes as they come, however many. lines: JSON, each with its newline."""
        kind = "application/x-ndjson"
        response = self._send(
            "POST", f"/services/{service}/outcomes", content=iter(lines), type_=kind
        )
        return msgspec.json.decode(response.content, type=_journal.OutcomesTold)

    def import_rows(
        self, service: str, rows: Iterable[_journal.ImportedRow], *, check: bool = False
    ) -> _journal.Imported:
        asked = _journal.ImportRows(service=service, rows=tuple(rows), check=check)
        return self.call("prediction.import", asked, _journal.Imported)

    # watching and proving
    monitor = _asks("monitor.show", _monitor.ShowMonitor, _monitor.MonitorView)
    findings = _asks("finding.list", _monitor.ListFindings, _monitor.Findings)
    events = _asks("ledger.list", _govern.ListEvents, _govern.Events)
    verify_ledger = _asks("ledger.verify", _govern.VerifyLedger, _govern.LedgerVerdict)
    prove = _asks("prediction.prove", _govern.ProvePrediction, _govern.PredictionProof)
    installation = _asks("installation.show", _govern.ShowInstallation, _govern.Installation)

    def export_ledger(self) -> bytes:
        """The ledger as NDJSON: the stored bytes, one event a line."""
        return self._send("GET", "/ledger/export", content=None, type_="application/json").content

    # who may call
    create_token = _asks("token.create", _govern.CreateToken, _govern.NewToken)
    tokens = _finds("token.list", _govern.ListTokens, _govern.Tokens, lambda found: found.tokens)

    def create_person(
        self, name: str, scope: Scope = "approve", *, expires_s: float = 90 * 86400.0
    ) -> _govern.NewToken:
        """A token for the control plane, by which this person is known."""
        asked = _govern.CreateToken(service="", name=name, scope=scope, expires_s=expires_s)
        return self.call("token.create", asked, _govern.NewToken)

    revoke_token = _asks("token.revoke", _govern.RevokeToken, _govern.Token)


for _name, _method in list(vars(Client).items()):
    if getattr(_method, "__qualname__", "").startswith(_finds.__name__):  # for `help`
        _method.__name__, _method.__qualname__ = _name, f"{Client.__name__}.{_name}"


def error_from(status: int, body: bytes) -> DoorstepError:
    """The error that an answer carries, or one that says the answer was not ours."""
    with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError, AttributeError):
        said = msgspec.json.decode(body)["error"]
        kinds = {one.kind: one for one in DoorstepError.__subclasses__()}
        kind = kinds.get(said.get("kind", ""), errors.RefusedError)
        return kind(str(said["code"]), str(said["message"]), str(said.get("hint", "")))
    text = body[:200].decode(errors="replace")
    return UnreachableError("bad-answer", f"the server answered {status}: {text!r}")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    return digest_of(path.read_bytes())


def _chunks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk
