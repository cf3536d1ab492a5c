from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from doorstep.core.contract import Contract
from doorstep.core.errors import InputError, NotFoundError
from doorstep.core.ids import digest_of
from doorstep.core.manifest import (
    FORMAT,
    FileEntry,
    Lineage,
    Manifest,
    NativeForm,
    encode_manifest,
)
from doorstep.kernel.blobs import (
    FILE_BYTES_MAX,
    MANIFEST,
    Blobs,
    publish_bundle,
    verify_bundle,
)

FILES = {"model/native/model.skops": b"weights" * 1000, "reference/profile.json": b"{}"}


def entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, size=len(data), sha256=digest_of(data))


def manifest_of(entries: list[FileEntry]) -> bytes:
    return encode_manifest(
        Manifest(
            format=FORMAT,
            task="regression",
            label="price",
            labels=(),
            positive="",
            threshold=0.5,
            contract=Contract(inputs=()),
            native=NativeForm(
                family="sklearn", serialization="skops", file="model/native/model.skops"
            ),
            onnx=None,
            parity=None,
            lineage=Lineage(),
            reads=(),
            files=tuple(entries),
        )
    )


def open_from(files: dict[str, bytes]):
    return lambda wanted: io.BytesIO(files[wanted.path])


MANIFEST_BYTES = manifest_of([entry(path, data) for path, data in FILES.items()])
DIGEST = digest_of(MANIFEST_BYTES)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return publish_bundle(tmp_path, MANIFEST_BYTES, open_from(FILES))


def test_a_file_is_kept_under_its_digest(tmp_path: Path):
    blobs = Blobs(tmp_path, ".parquet")
    digest = digest_of(b"rows")
    assert not blobs.has(digest)
    assert blobs.put_file(digest, io.BytesIO(b"rows")) == tmp_path / f"{digest}.parquet"
    assert blobs.has(digest)
    with blobs.open(digest) as stream:
        assert stream.read() == b"rows"


def test_putting_a_file_again_does_not_read_it(tmp_path: Path):
    blobs, digest = Blobs(tmp_path), digest_of(b"rows")
    blobs.put_file(digest, io.BytesIO(b"rows"))
    again = io.BytesIO(b"other")
    blobs.put_file(digest, again)
    assert again.tell() == 0


@pytest.mark.parametrize("sent", [b"", b"row", b"rows!", b"Rows"])
def test_bytes_with_another_digest_leave_nothing(tmp_path: Path, sent: bytes):
    blobs = Blobs(tmp_path)
    with pytest.raises(InputError) as refused:
        blobs.put_file(digest_of(b"rows"), io.BytesIO(sent))
    assert refused.value.code == "wrong-digest"
    assert list(tmp_path.iterdir()) == []


def test_a_file_over_the_limit_leaves_nothing(tmp_path: Path):
    blobs, digest = Blobs(tmp_path), digest_of(b"rows")
    with pytest.raises(InputError) as refused:
        blobs.put_file(digest, io.BytesIO(b"rows"), bytes_max=3)
    assert refused.value.code == "file-too-large"
    assert list(tmp_path.iterdir()) == []
    assert blobs.put_file(digest, io.BytesIO(b"rows"), bytes_max=4).is_file()


def test_a_broken_stream_leaves_nothing(tmp_path: Path):
    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        Blobs(tmp_path).put_file(digest_of(b"rows"), Broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../x", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_name_that_is_no_digest_is_refused(tmp_path: Path, digest: str):
    with pytest.raises(InputError):
        Blobs(tmp_path).has(digest)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError):
        Blobs(tmp_path).open("0" * 64)


def test_a_published_bundle_is_whole(bundle: Path):
    assert bundle.name == DIGEST
    assert verify_bundle(bundle, DIGEST) == []
    assert (bundle / MANIFEST).read_bytes() == MANIFEST_BYTES
    assert {path: (bundle / path).read_bytes() for path in FILES} == FILES


def test_publishing_a_whole_bundle_again_opens_no_file(bundle: Path):
    def never(wanted: FileEntry) -> io.BytesIO:
        raise AssertionError(wanted.path)

    assert publish_bundle(bundle.parent, MANIFEST_BYTES, never) == bundle


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("change", ["flip", "cut", "grow", "delete", "link"])
def test_any_change_of_a_file_is_found(bundle: Path, path: str, change: str, tmp_path: Path):
    file, data = bundle / path, FILES[path]
    match change:
        case "flip":
            file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "cut":
            file.write_bytes(data[:-1])
        case "grow":
            file.write_bytes(data + b"x")
        case "delete":
            file.unlink()
        case "link":
            (tmp_path / "same").write_bytes(data)
            file.unlink()
            file.symlink_to(tmp_path / "same")
    problems = verify_bundle(bundle, DIGEST)
    assert len(problems) == 1 and path in problems[0]


def test_a_changed_cut_or_missing_manifest_is_found(bundle: Path):
    (bundle / MANIFEST).write_bytes(MANIFEST_BYTES[:-1])
    assert "digest" in verify_bundle(bundle, DIGEST)[0]
    (bundle / MANIFEST).unlink()
    assert MANIFEST in verify_bundle(bundle, DIGEST)[0]


def test_a_file_that_the_manifest_does_not_name_is_found(bundle: Path):
    (bundle / "model" / "native" / "extra.py").write_text("")
    (bundle / "link").symlink_to("/etc")
    problems = verify_bundle(bundle, DIGEST)
    assert [problem.split(" ")[0] for problem in problems] == ["link", "model/native/extra.py"]


def test_a_card_and_signatures_may_lie_beside_the_manifest(bundle: Path):
    (bundle / "card.md").write_text("")
    (bundle / "signatures").mkdir()
    (bundle / "signatures" / "ada.sig").write_text("")
    assert verify_bundle(bundle, DIGEST) == []


def test_a_broken_bundle_is_set_aside_and_published_anew(bundle: Path):
    (bundle / "reference" / "profile.json").write_bytes(b"")
    assert publish_bundle(bundle.parent, MANIFEST_BYTES, open_from(FILES)) == bundle
    assert verify_bundle(bundle, DIGEST) == []
    assert len(list(bundle.parent.glob(".broken-*"))) == 1


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a\\b", "a/../../b", "", "C:/x", "a\0b"])
def test_a_manifest_cannot_write_outside_its_bundle(tmp_path: Path, path: str):
    (tmp_path / "bundles").mkdir()
    with pytest.raises(InputError) as refused:
        publish_bundle(
            tmp_path / "bundles", manifest_of([entry(path, b"x")]), open_from({path: b"x"})
        )
    assert refused.value.code == "unsafe-path"
    assert [path.name for path in tmp_path.rglob("*")] == ["bundles"]


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", b"x"), entry("a", b"x")],
        [entry(MANIFEST, b"x")],
        [FileEntry(path="a", size=-1, sha256=digest_of(b"x"))],
        [FileEntry(path="a", size=FILE_BYTES_MAX + 1, sha256=digest_of(b"x"))],
        [FileEntry(path="a", size=1, sha256="nonsense")],
    ],
)
def test_a_manifest_with_impossible_files_is_refused(tmp_path: Path, entries: list[FileEntry]):
    with pytest.raises(InputError):
        publish_bundle(tmp_path, manifest_of(entries), open_from({"a": b"x", MANIFEST: b"x"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "code"), [(b"y", "wrong-digest"), (b"xx", "file-too-large"), (b"", "wrong-digest")]
)
def test_a_bundle_with_a_wrong_file_is_not_published(tmp_path: Path, sent: bytes, code: str):
    with pytest.raises(InputError) as refused:
        publish_bundle(tmp_path, manifest_of([entry("a", b"x")]), open_from({"a": sent}))
    assert refused.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_file_shorter_than_the_manifest_says_is_refused(tmp_path: Path):
    lying = msgspec.structs.replace(entry("a", b"x"), size=2)
    with pytest.raises(InputError) as refused:
        publish_bundle(tmp_path, manifest_of([lying]), open_from({"a": b"x"}))
    assert refused.value.code == "wrong-size"
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_no_manifest_are_refused(tmp_path: Path):
    for data in (b"", b"{}", b"null", b"\xff", b"[" * 10_000):
        with pytest.raises(InputError):
            publish_bundle(tmp_path, data, open_from({}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "paths",
    [("a", "a/b"), ("a/b/c", "a"), ("a/b", "a/b/c/d"), ("manifest.json/x",),
     ("card.md/x", "card.md")],
)  # fmt: skip
def test_a_path_that_is_file_and_folder_is_refused_and_leaves_nothing(
    tmp_path: Path, paths: tuple[str, ...]
):
    files = dict.fromkeys(paths, b"same")
    listed = manifest_of([entry(path, data) for path, data in files.items()])
    with pytest.raises(InputError) as refused:
        publish_bundle(tmp_path, listed, open_from(files))
    assert refused.value.code == "bad-manifest"
    assert list(tmp_path.iterdir()) == []


def test_names_that_begin_alike_are_apart(tmp_path: Path):
    files = dict.fromkeys(("a", "a.b/c", "ab", "b/a"), b"same")
    listed = manifest_of([entry(path, data) for path, data in files.items()])
    assert (
        verify_bundle(publish_bundle(tmp_path, listed, open_from(files)), digest_of(listed)) == []
    )
