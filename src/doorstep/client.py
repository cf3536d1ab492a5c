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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from doorstep.core import errors
from doorstep.core.errors import DoorstepError, UnreachableError
from doorstep.core.ids import digest_of
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
from doorstep.journal.surface import (
    CountTraffic,
    ListPredictions,
    OutcomeGiven,
    OutcomesRecorded,
    Prediction,
    Predictions,
    RecordOutcomes,
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
    RegisterVersion,
    Service,
    ServiceDiff,
    ServiceRevision,
    Services,
    ShowService,
    ShowVersion,
    Version,
    Versions,
)
from doorstep.release.surface import (
    ChangeRelease,
    Kill,
    KillVersion,
    ListReleases,
    Release,
    Releases,
    ReviveVersion,
    Rollback,
    ShowRelease,
    StartRelease,
)

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)
READ_TIMEOUT_S = 900.0
"""Gates run while the caller waits; they are bounded by their own limit, which is shorter."""


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
            raise UnreachableError(
                "no-answer",
                f"{self.url} does not answer: {type(error).__name__}",
                "is it running?  doorstep up -d",
            ) from None
        if response.status_code >= 400:
            raise error_from(response.status_code, response.content)
        return response

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

    def history(self, service: str, at: int = 0) -> History:
        return self.call("service.history", ShowHistory(service=service, at=at), History)

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

    def start_release(self, version: str, *, rehearsal: bool = False) -> Release:
        asked = StartRelease(version=version, rehearsal=rehearsal)
        return self.call("release.start", asked, Release)

    def release(self, release: str) -> Release:
        return self.call("release.show", ShowRelease(release=release), Release)

    def releases(self, service: str = "") -> tuple[Release, ...]:
        return self.call("release.list", ListReleases(service=service), Releases).releases

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

    # predictions
    def prediction(self, prediction: str) -> Prediction:
        return self.call("prediction.show", ShowPrediction(prediction=prediction), Prediction)

    def predictions(self, service: str, limit: int = 50, key: str = "") -> tuple[Prediction, ...]:
        asked = ListPredictions(service=service, limit=limit, key=key)
        return self.call("prediction.list", asked, Predictions).predictions

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
