"""Who may ask, and how often: API keys and limits of the plan, checked before a handler runs.

A service whose plan says `access: keys` wants a key, and a node that others reach over the network
(`guarded`) wants one for everything. Only probes are outside. A limit that holds for all nodes
together is given out by each worker in its part of it.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256

from doorstep.core.apikey import id_of
from doorstep.core.errors import RefusedError
from doorstep.core.plan import ApiKey
from doorstep.serve.service import Service
from doorstep.serve.visit import Visit

RETRY_S_MAX = 3600
_NOBODY = "0" * 64
_BEARER = b"bearer "
_WHO = b'www-authenticate: Bearer realm="doorstep"\r\n'


class WireError(RefusedError):
    """A refusal with a status and headers of its own. reason: as it is counted."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", *,
        headers: bytes = b"", reason: str = "input",
    ) -> None:  # fmt: skip
        super().__init__(code, message, hint)
        self.status = status
        self.headers = headers
        self.reason = reason


class Bucket:
    """A token bucket that holds one second's worth, and at least one request."""

    __slots__ = ("_at_s", "_left", "rate")

    def __init__(self, rate: float, now_s: float) -> None:
        self.rate = rate
        self._left = max(rate, 1.0)
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """0 if a request was taken; else the seconds until there is one."""
        left = min(self._left + (now_s - self._at_s) * self.rate, max(self.rate, 1.0))
        self._at_s = now_s
        if left >= 1.0:
            self._left = left - 1.0
            return 0.0
        self._left = left
        return (1.0 - left) / self.rate


class Admission:
    """Lives as long as its worker; `swap` gives it the next plan. Not thread-safe.

    is_idle: nobody needs a key and nothing is limited, so that there is nothing to ask.
    """

    def __init__(self, *, guarded: bool = False) -> None:
        self._guarded = guarded
        self._keys: dict[str, ApiKey] = {}
        self._services: Mapping[str, Service] = {}
        self._some_closed = False
        self._buckets: dict[str, Bucket] = {}
        self.is_idle = not guarded

    def swap(self, keys: Iterable[ApiKey], services: Mapping[str, Service], quota: float) -> None:
        """quota: this worker's part of every limit. What was used of one stays used."""
        self._keys = {one.id: one for one in keys}
        self._services = services
        plans = [one.plan for one in services.values()]
        self._some_closed = any(one.access == "keys" for one in plans)
        limits = {f"key {one.id}": one.rate for one in self._keys.values()}
        limits |= {f"service {one.service}": one.limit for one in plans}
        now_s = time.monotonic()
        old, self._buckets = self._buckets, {}
        for name, limit in limits.items():
            if limit:
                bucket = self._buckets[name] = old.get(name) or Bucket(limit * quota, now_s)
                bucket.rate = limit * quota
        self.is_idle = not (self._guarded or self._keys or self._some_closed or self._buckets)

    def admit(self, visit: Visit, service: str) -> None:
        """Let this visit to a service in, or to what belongs to none (""); note its key in it.
        Raises: WireError (`unauthenticated`, `other-service`, `rate-limited`)."""
        is_first, visit.admitted = visit.admitted is None, service
        key = self.identify(visit.head.fields)
        if self.wants_key(service):
            if key is None:
                raise WireError(
                    401, "unauthenticated",
                    "an API key is needed; none was sent, or it is not known, expired or revoked",
                    "send it as Authorization: Bearer KEY, or X-API-Key: KEY",
                    headers=_WHO, reason="auth",
                )  # fmt: skip
            if service and key.service not in ("", service):
                raise WireError(
                    403, "other-service", "this API key is for another service", reason="auth"
                )
        visit.key = key
        if key is not None and is_first:
            self._limit(f"key {key.id}", "this API key")
        self._limit(f"service {service}", f"service {service}")

    def wants_key(self, service: str) -> bool:
        """Whether a key is needed there. What belongs to no service may show any of them."""
        if self._guarded or not service:
            return self._guarded or self._some_closed
        found = self._services.get(service)
        return found is not None and found.plan.access == "keys"

    def sees(self, visit: Visit, service: str) -> bool:
        """Whether a list that is shown to this visit may name the service."""
        return not self.wants_key(service) or (
            visit.key is not None and visit.key.service in ("", service)
        )

    def identify(self, fields: Mapping[bytes, bytes]) -> ApiKey | None:
        """Whose valid key the headers carry."""
        sent = fields.get(b"x-api-key", b"")
        if not sent:
            sent = fields.get(b"authorization", b"")
            sent = sent[len(_BEARER) :].strip() if sent[: len(_BEARER)].lower() == _BEARER else b""
        name = id_of(sent)
        if not name:
            return None
        known = self._keys.get(name)
        digest = known.digest if known else _NOBODY
        if not hmac.compare_digest(sha256(sent).hexdigest(), digest) or known is None:
            return None
        return known if known.expires_at > time.time_ns() // 1000 else None

    def _limit(self, name: str, who: str) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            return
        wait_s = bucket.take(time.monotonic())
        if wait_s:
            seconds = min(max(math.ceil(wait_s), 1), RETRY_S_MAX)
            raise WireError(
                429, "rate-limited", f"{who} has used up its requests; come again in {seconds} s",
                headers=b"retry-after: %d\r\n" % seconds, reason="rate",
            )  # fmt: skip
