"""A place for objects: S3 and what speaks like it, Google's, Azure's, or a folder (`file://`).

Credentials, endpoint and region are the usual variables (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_REGION`, ...) or the machine's own role.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from doorstep.core.errors import MissingExtraError, RefusedError, UnreachableError, UsageError
from doorstep.kernel.files import COPY_BYTES, sha256_of

SCHEMES = ("s3", "gs", "az", "file")
VARIABLES = ("AWS_", "GOOGLE_", "AZURE_", "SSL_CERT_")
"""What the variables that name an object store and its credentials begin with."""
CONNECT_S, REQUEST_S = 5, 300
"""A request may take as long as the largest file (256 MB) at 1 MB a second."""
ROLES_ADDRESS = "169.254.169.254"
"""Where a machine in a cloud asks for its role; it is asked when no key is set."""
SAID_CHARS_MAX = 300
RETRIES = 2
"""Of one request. Who uses a store tries again later."""


def store_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child that uses a store must be told, and no other child."""
    return {name: value for name, value in environ.items() if name.startswith(VARIABLES)}


def parse_store(url: str) -> str:
    """Without its last slash. Raises: UsageError (`bad-store`), MissingExtraError."""
    scheme, _, rest = url.partition("://")
    has_more = "@" in rest or "?" in rest
    if scheme not in SCHEMES or not rest.strip("/") or has_more:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        # What stands there may be a secret.
        said = repr(f"{scheme}://..." if has_more else url)
        raise UsageError(
            "bad-store",
            f"the store is {said}; expected a place after one of {known}, without credentials",
            "doorstep up --store s3://BUCKET/PREFIX",
        )
    _obstore()
    return url.rstrip("/")


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise MissingExtraError.of("obstore", "s3", "an object store") from None
    return obstore


class Found(NamedTuple):
    """etag: names this content of the object."""

    data: bytes
    etag: str


class Store:
    """Objects under a URL, by names with slashes. Every method raises UnreachableError
    (`store-unreachable`) and RefusedError (`store-refused`: credentials, permissions)."""

    def __init__(self, url: str) -> None:
        self.url = parse_store(url)
        self._obstore = _obstore()
        if self.url.startswith("file://"):
            self._has_conditions = False
            with self._errors():
                self._store = self._obstore.store.from_url(self.url, mkdir=True)
            return
        self._has_conditions = True
        # A person who names an endpoint with http:// means it.
        options = {
            "allow_http": True,
            "connect_timeout": f"{CONNECT_S}s",
            "timeout": f"{REQUEST_S}s",
        }
        self._store = self._obstore.store.from_url(
            self.url, client_options=options, retry_config={"max_retries": RETRIES}
        )

    def put_once(self, name: str, path: Path) -> bool:
        """The file is there under this name, whole. Whether that is so only now: False if exactly
        this was there before. Raises: FileNotFoundError for the file."""
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
            self._errors(),
        ):
            try:
                self._put(name, data, mode="create")
            except self._obstore.exceptions.AlreadyExistsError:
                if self._digest(name) == sha256_of(file):
                    return False
                self._put(name, data)
            return True

    def replace(self, name: str, data: bytes, etag: str) -> str:
        """Put an object in the place of the one with this etag ("": there is none). Its etag.
        Raises: RefusedError (`store-shared`) if another is there."""
        mode: Any = {"e_tag": etag} if etag else "create"
        if not self._has_conditions:
            # A folder cannot be asked to compare: who writes between these two is not noticed.
            found, mode = self.get(name), "overwrite"
            if (found.etag if found else "") != etag:
                raise shared(self.url, name)
        try:
            with self._errors():
                return str(self._put(name, data, mode=mode)["e_tag"])
        except (
            self._obstore.exceptions.PreconditionError,
            self._obstore.exceptions.AlreadyExistsError,
        ):
            raise shared(self.url, name) from None

    def get(self, name: str, unless: str = "") -> Found | None:
        """None if there is no such object, or if its etag is `unless`."""
        options = {"if_none_match": unless} if unless else None
        with (
            contextlib.suppress(FileNotFoundError, self._obstore.exceptions.NotModifiedError),
            self._errors(),
        ):
            found = self._obstore.get(self._store, name, options=options)
            return Found(bytes(found.bytes()), str(found.meta["e_tag"]))
        return None

    def fetch(self, name: str, to: Path) -> str:
        """Write an object to a new file. The file's sha256. Raises: FileNotFoundError, OSError."""
        hashed = hashlib.sha256()
        with self._errors(), to.open("wb") as file:
            for piece in self._pieces(name):
                hashed.update(piece)
                file.write(piece)
        return hashed.hexdigest()

    def holds(self, name: str, sha256: str) -> bool:
        """Whether there is an object with exactly this content."""
        with contextlib.suppress(FileNotFoundError), self._errors():
            return self._digest(name) == sha256
        return False

    def names(self, prefix: str) -> set[str]:
        """Of all objects below."""
        with self._errors():
            return {
                str(one["path"]) for some in self._obstore.list(self._store, prefix) for one in some
            }

    def folders(self, prefix: str) -> list[str]:
        """What is right below, as names of folders."""
        with self._errors():
            found = self._obstore.list_with_delimiter(self._store, prefix)
            return sorted(str(one).rsplit("/", 1)[-1] for one in found["common_prefixes"])

    def delete(self, names: Iterable[str]) -> None:
        """One that is not there is no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._errors():
                self._obstore.delete(self._store, name)

    def _put(self, name: str, data: Any, mode: Any = "overwrite") -> Any:
        # In one request: a condition cannot go with several, and nothing half-written stays.
        return self._obstore.put(self._store, name, data, mode=mode, use_multipart=False)

    def _digest(self, name: str) -> str:
        hashed = hashlib.sha256()
        for piece in self._pieces(name):
            hashed.update(piece)
        return hashed.hexdigest()

    def _pieces(self, name: str) -> Iterator[Any]:
        found = self._obstore.get(self._store, name)
        return iter(found.stream(min_chunk_size=COPY_BYTES))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        known = self._obstore.exceptions
        try:
            yield
        except (known.PreconditionError, known.AlreadyExistsError, known.NotModifiedError):
            raise
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            raise RefusedError(
                "store-refused",
                f"{self.url} refuses: {_said(error)}",
                "start Doorstep with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
            ) from None
        except FileNotFoundError:
            raise
        except (known.BaseError, OSError) as error:
            raise UnreachableError(
                "store-unreachable",
                f"{self.url} does not answer as a store: {_said(error)}",
                "doorstep doctor",
            ) from None


def shared(url: str, name: str) -> RefusedError:
    """Somebody else writes what only this process should."""
    return RefusedError(
        "store-shared",
        f"{name} in {url} was written by another than this process",
        "let each home, and each copy of one, have a prefix of its own",
    )


def _said(error: Exception) -> str:
    """Its own sentence, without the inner structures behind it; of an answer, the code in it."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    if ROLES_ADDRESS in text:
        return (
            "no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are where Doorstep was started, and "
            "this machine has no role"
        )
    code = text.partition("<Code>")[2].partition("</Code>")[0]
    text = text.partition(": <?xml")[0]
    return (f"{text}: {code}" if code else text)[:SAID_CHARS_MAX]
