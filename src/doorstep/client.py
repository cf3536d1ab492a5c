"""The SDK: every operation of the control plane as a method, over HTTP.

    import doorstep
    with doorstep.connect() as here:
        print(here.status("loans"))

A server is found by, in this order: the `url` argument, DOORSTEP_URL, `run/control.json` of the
home. The token: the argument, DOORSTEP_TOKEN, the home's local token file (mode 0600).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from doorstep.core import errors
from doorstep.core.errors import DoorstepError, UnreachableError
from doorstep.core.ids import digest_of
from doorstep.core.outcome import OutcomeGiven
from doorstep.core.people import Scope
from doorstep.core.verdict import Finding
from doorstep.explain.surface import ExplainPrediction, Explanation
from doorstep.gate.surface import GateRun, GateRuns, RunGates, ShowGates
from doorstep.govern.surface import (
    CreateToken,
    Events,
    History,
    Installation,
    LedgerVerdict,
    ListEvents,
    ListTokens,
    NewToken,
    PredictionProof,
    ProvePrediction,
    RevokeToken,
    ShowHistory,
    ShowInstallation,
    Token,
    Tokens,
    VerifyLedger,
)
from doorstep.journal import exported
from doorstep.journal.surface import (
    CountTraffic,
    Erased,
    EraseSubject,
    ExportJournal,
    Held,
    HoldSubject,
    Imported,
    ImportedRow,
    ImportRows,
    JournalTable,
    KeepMark,
    ListPredictions,
    Mark,
    OpenPrediction,
    OutcomesRecorded,
    OutcomesTold,
    Prediction,
    Predictions,
    QueryJournal,
    RecordOutcomes,
    ShowMark,
    ShowPrediction,
    Traffic,
)
from doorstep.kernel.server import find_server
from doorstep.kernel.trust import SignedTrust
from doorstep.monitor.surface import (
    Findings,
    ListFindings,
    MonitorView,
    ServiceStatus,
    ShowMonitor,
    ShowStatus,
    Statuses,
)
from doorstep.register.surface import (
    ApplyService,
    FindMissing,
    ListServices,
    ListVersions,
    Missing,
    Reference,
    RegisterVersion,
    Rule,
    Service,
    ServiceDiff,
    ServiceRevision,
    Services,
    ShowService,
    ShowVersion,
    Version,
    Versions,
    WatchVersion,
)
from doorstep.release.surface import (
    Approvals,
    ApproveRevision,
    ApproveVersion,
    ChangeRelease,
    Differences,
    EstimateRelease,
    Forecast,
    Kill,
    KillVersion,
    ListReleases,
    Recomputed,
    RecomputeRelease,
    Release,
    Releases,
    ReviveVersion,
    Rollback,
    ShowDifferences,
    ShowRelease,
    StartRelease,
)

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)
Told = Callable[[int, int], None]
READ_TIMEOUT_S = 900.0
"""Gates run while the caller waits; they are bounded by their own limit, which is shorter."""


def _tell_nobody(_bytes: int, _whole: int) -> None: ...


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
    def apply(self, file: str, name: str = "doorstep.yaml") -> ServiceRevision:
        return self.call("service.apply", ApplyService(file=file, name=name), ServiceRevision)

    def diff(self, file: str, name: str = "doorstep.yaml") -> ServiceDiff:
        return self.call("service.diff", ApplyService(file=file, name=name), ServiceDiff)

    def services(self) -> tuple[Service, ...]:
        return self.call("service.list", ListServices(), Services).services

    def service(self, service: str) -> Service:
        return self.call("service.show", ShowService(service=service), Service)

    def status(self, service: str = "") -> tuple[ServiceStatus, ...]:
        return self.call("service.status", ShowStatus(service=service), Statuses).services

    def history(self, service: str, at: int = 0, *, whole: bool = False) -> History:
        asked = ShowHistory(service=service, at=at, whole=whole)
        return self.call("service.history", asked, History)

    def versions(self, service: str) -> tuple[Version, ...]:
        return self.call("version.list", ListVersions(service=service), Versions).versions

    def version(self, version: str) -> Version:
        return self.call("version.show", ShowVersion(version=version), Version)

    def upload(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Upload a bundle's files and others by digest; those that are there are not sent again.

        folder: a built bundle, or a folder to hash; files: digest -> file, for files beside it.
        """
        wanted = {**files, **{_digest(path): path for path in _files(folder)}}
        asked = FindMissing(digests=tuple(sorted(wanted)))
        for digest in self.call("blob.missing", asked, Missing).digests:
            self._send(
                "PUT",
                f"/blobs/{digest}",
                content=_chunks(wanted[digest]),
                type_="application/octet-stream",
            )

    def register(
        self,
        file: str,
        digest: str,
        *,
        holdout: str = "",
        speed_ms_p99: float = 0.0,
        trust: SignedTrust | None = None,
        findings: Iterable[Finding] = (),
    ) -> Version:
        asked = RegisterVersion(
            file=file,
            digest=digest,
            holdout=holdout,
            speed_ms_p99=speed_ms_p99,
            trust=trust,
            findings=tuple(findings),
        )
        return self.call("version.register", asked, Version)

    # gates and releases
    def run_gates(self, version: str) -> GateRun:
        return self.call("gate.run", RunGates(version=version), GateRun)

    def gates(self, version: str) -> tuple[GateRun, ...]:
        return self.call("gate.show", ShowGates(version=version), GateRuns).runs

    def approve(self, version: str, why: str) -> Approvals:
        return self.call("version.approve", ApproveVersion(version=version, why=why), Approvals)

    def approve_revision(self, service: str, revision: int, why: str) -> Rule:
        asked = ApproveRevision(service=service, revision=revision, why=why)
        return self.call("service.approve", asked, Rule)

    def start_release(self, version: str, *, rehearsal: bool = False) -> Release:
        asked = StartRelease(version=version, rehearsal=rehearsal)
        return self.call("release.start", asked, Release)

    def estimate_release(self, version: str) -> Forecast:
        return self.call("release.estimate", EstimateRelease(version=version), Forecast)

    def release(self, release: str) -> Release:
        return self.call("release.show", ShowRelease(release=release), Release)

    def recompute(self, release: str) -> Recomputed:
        """Its decisions made again, and its evidence beside the journal."""
        return self.call("release.recompute", RecomputeRelease(release=release), Recomputed)

    def releases(self, service: str = "") -> tuple[Release, ...]:
        return self.call("release.list", ListReleases(service=service), Releases).releases

    def differences(self, release: str) -> Differences:
        return self.call("release.differences", ShowDifferences(release=release), Differences)

    def pause(self, release: str, why: str) -> Release:
        return self.call("release.pause", ChangeRelease(release=release, why=why), Release)

    def resume(self, release: str, why: str) -> Release:
        return self.call("release.resume", ChangeRelease(release=release, why=why), Release)

    def promote(self, release: str, why: str) -> Release:
        return self.call("release.promote", ChangeRelease(release=release, why=why), Release)

    def rollback(self, service: str, why: str, to: int | None = None) -> Release:
        return self.call("service.rollback", Rollback(service=service, why=why, to=to), Release)

    def kill(self, version: str, why: str) -> Kill:
        return self.call("version.kill", KillVersion(version=version, why=why), Kill)

    def revive(self, version: str, why: str) -> Kill:
        return self.call("version.revive", ReviveVersion(version=version, why=why), Kill)

    def watch(self, file: str, name: str, reference: Reference | None = None) -> Version:
        """A version that another service calls `name`. reference: what its records are compared
        with, None for that of the newest watched one."""
        asked = WatchVersion(file=file, name=name, reference=reference)
        return self.call("version.watch", asked, Version)

    # predictions
    def prediction(self, prediction: str) -> Prediction:
        return self.call("prediction.show", ShowPrediction(prediction=prediction), Prediction)

    def open_prediction(self, prediction: str, why: str) -> Prediction:
        """With its sealed fields; the ledger says who read them, and why."""
        asked = OpenPrediction(prediction=prediction, why=why)
        return self.call("prediction.open", asked, Prediction)

    def erase(self, subject: str, why: str) -> Erased:
        """Destroy the key of a person. There is no way back."""
        return self.call("subject.erase", EraseSubject(subject=subject, why=why), Erased)

    def hold(self, subject: str, why: str, *, ends: bool = False) -> Held:
        """Keep a person from being erased; or end that."""
        return self.call("subject.hold", HoldSubject(subject=subject, why=why, ends=ends), Held)

    def predictions(
        self,
        service: str,
        limit: int = 50,
        key: str = "",
        *,
        subject: str = "",
        version: int = 0,
        segment: str = "",
        answer: str = "",
        status: str = "",
        kind: str = "",
        since: int = 0,
        before: int = 0,
    ) -> tuple[Prediction, ...]:
        """The newest that match all that is given."""
        asked = ListPredictions(
            service=service,
            limit=limit,
            since=since,
            before=before,
            version=version,
            segment=segment,
            answer=answer,
            key=key,
            subject=subject,
            status=status,
            kind=kind,
        )
        return self.call("prediction.list", asked, Predictions).predictions

    def query(
        self, sql: str, *, since: int = 0, until: int = 0, limit: int = 1000, timeout_s: float = 30
    ) -> JournalTable:
        """One SELECT over `predictions`, `outcomes` or a service's name: `.rows`, `.to_pandas()`,
        `.to_polars()`. since, until: microseconds UTC."""
        asked = QueryJournal(sql=sql, since=since, until=until, limit=limit, timeout_s=timeout_s)
        return self.call("journal.query", asked, JournalTable)

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
        asked = ExportJournal(
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

    def explain(self, prediction: str) -> Explanation:
        return self.call(
            "prediction.explain", ExplainPrediction(prediction=prediction), Explanation
        )

    def record_outcomes(
        self, service: str, outcomes: Iterable[OutcomeGiven], batch: str = ""
    ) -> int:
        """How many were recorded. batch: a SHA-256; a batch that was recorded before is not."""
        asked = RecordOutcomes(service=service, outcomes=tuple(outcomes), batch=batch)
        return self.call("outcome.record", asked, OutcomesRecorded).recorded

    def tell_outcomes(
        self,
        service: str,
        outcomes: Iterable[OutcomeGiven],
        batch: str = "",
        *,
        check: bool = False,
    ) -> OutcomesRecorded:
        """Record those that can be; which are refused and why. check: record nothing."""
        asked = RecordOutcomes(
            service=service, outcomes=tuple(outcomes), batch=batch, partial=True, check=check
        )
        return self.call("outcome.record", asked, OutcomesRecorded)

    def stream_outcomes(self, service: str, lines: Iterable[bytes]) -> OutcomesTold:
        """Record outcomes as they come, however many. lines: JSON, each with its newline."""
        kind = "application/x-ndjson"
        response = self._send(
            "POST", f"/services/{service}/outcomes", content=iter(lines), type_=kind
        )
        return msgspec.json.decode(response.content, type=OutcomesTold)

    def mark(self, service: str, source: str) -> Mark:
        """How far a source was read. source: 64 hex digits."""
        return self.call("journal.mark", ShowMark(service=service, source=source), Mark)

    def keep_mark(self, service: str, source: str, mark: Mark) -> Mark:
        return self.call(
            "journal.keep-mark", KeepMark(service=service, source=source, mark=mark), Mark
        )

    def import_rows(
        self, service: str, rows: Iterable[ImportedRow], *, check: bool = False
    ) -> Imported:
        asked = ImportRows(service=service, rows=tuple(rows), check=check)
        return self.call("prediction.import", asked, Imported)

    def traffic(
        self, service: str, minutes: int = 60, bucket_s: int = 60, kind: str = ""
    ) -> Traffic:
        asked = CountTraffic(service=service, minutes=minutes, bucket_s=bucket_s, kind=kind)
        return self.call("traffic.count", asked, Traffic)

    # watching and proving
    def monitor(self, service: str) -> MonitorView:
        return self.call("monitor.show", ShowMonitor(service=service), MonitorView)

    def findings(self, service: str = "", state: str = "open") -> Findings:
        return self.call("finding.list", ListFindings(service=service, state=state), Findings)

    def events(self, service: str = "", kind: str = "", limit: int = 100) -> Events:
        return self.call("ledger.list", ListEvents(service=service, kind=kind, limit=limit), Events)

    def verify_ledger(self) -> LedgerVerdict:
        return self.call("ledger.verify", VerifyLedger(), LedgerVerdict)

    def prove(self, prediction: str) -> PredictionProof:
        asked = ProvePrediction(prediction=prediction)
        return self.call("prediction.prove", asked, PredictionProof)

    def export_ledger(self) -> bytes:
        """The ledger as NDJSON: the stored bytes, one event a line."""
        return self._send("GET", "/ledger/export", content=None, type_="application/json").content

    def installation(self) -> Installation:
        return self.call("installation.show", ShowInstallation(), Installation)

    # who may call
    def create_token(
        self, service: str, name: str = "", *, expires_s: float = 90 * 86400.0, rate: float = 0.0
    ) -> NewToken:
        """An API key of the data plane. service: "" for all. rate: requests per second, 0: any."""
        asked = CreateToken(service=service, name=name, expires_s=expires_s, rate=rate)
        return self.call("token.create", asked, NewToken)

    def create_person(
        self, name: str, scope: Scope = "approve", *, expires_s: float = 90 * 86400.0
    ) -> NewToken:
        """A token for the control plane, by which this person is known."""
        asked = CreateToken(service="", name=name, scope=scope, expires_s=expires_s)
        return self.call("token.create", asked, NewToken)

    def tokens(self, service: str = "") -> tuple[Token, ...]:
        return self.call("token.list", ListTokens(service=service), Tokens).tokens

    def revoke_token(self, token: str, why: str) -> Token:
        return self.call("token.revoke", RevokeToken(token=token, why=why), Token)


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
