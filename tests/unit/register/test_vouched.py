"""One digest covers everything that runs: here, in the manifest, and at the server."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.contract import Contract
from doorstep.core.errors import DoorstepError, InputError, RefusedError
from doorstep.core.ids import digest_of
from doorstep.core.instant import SystemClock
from doorstep.core.manifest import (
    FileEntry,
    Lineage,
    Manifest,
    NativeForm,
    running_digest,
    vouched_digest,
)
from doorstep.formats.load import load_scorer
from doorstep.kernel.trust import SignedTrust, TrustStore
from doorstep.register.actions import check_trust
from doorstep.register.model_file import find_source, open_model

NATIVE = "model/native/model.pkl"
SERVE = "model/native/code/serve.py"
FILES = {"model/native/code/credit/rule.py": "2" * 64, SERVE: "1" * 64}


def manifest(files: dict[str, str], **changes: Any) -> Manifest:
    family, kind, main, entry = ("python", "source", SERVE, "serve:predict")
    if NATIVE in files:
        family, kind, main, entry = ("sklearn", "pickle", NATIVE, "")
    native = NativeForm(family=family, serialization=kind, file=main, entry=entry)  # type: ignore[arg-type]
    beside = {"reference/profile.json": "f" * 64}
    return Manifest(
        format=1, task="regression", label="y", labels=(), positive="", threshold=0.5,
        contract=Contract(inputs=()), native=msgspec.structs.replace(native, **changes),
        onnx=None, parity=None, lineage=Lineage(), reads=(),
        files=tuple(
            FileEntry(path=path, size=1, sha256=one) for path, one in (files | beside).items()
        ),
    )  # fmt: skip


def signed(folder: Path, digest: str) -> SignedTrust:
    return TrustStore(folder).sign(digest, why="mine", who="ada@desk", at=SystemClock().now())


def test_a_file_alone_is_its_own_digest() -> None:
    assert vouched_digest(manifest({NATIVE: "a" * 64})) == "a" * 64


def test_a_manifest_without_its_native_file_is_refused() -> None:
    with pytest.raises(InputError, match="not its digest"):
        vouched_digest(manifest({"model/native/code/a.py": "a" * 64}))


paths = st.dictionaries(st.text('ab/\n\0"', min_size=1, max_size=6), st.sampled_from("abc"))


@given(paths, paths)
def test_other_files_are_another_digest_and_their_order_is_not(
    one: dict[str, str], two: dict[str, str]
) -> None:
    first, second = (running_digest(files.items(), "m:f") for files in (one, two))
    assert (first == second) is (one == two)
    assert running_digest(reversed(list(one.items())), "m:f") == first


def test_the_server_believes_a_statement_about_all_that_runs(tmp_path: Path) -> None:
    vouched = signed(tmp_path, vouched_digest(manifest(FILES)))
    assert check_trust(tmp_path, manifest(FILES), vouched)


@pytest.mark.parametrize(
    "tampered",
    [
        FILES | {"model/native/code/credit/rule.py": "3" * 64},
        FILES | {"model/native/code/numpy.py": "3" * 64},
        FILES | {"model/native/weights.pkl": "3" * 64},
        {SERVE: FILES[SERVE]},
        {SERVE: FILES[SERVE], "model/native/code/credit/other.py": "2" * 64},
    ],
    ids=["changed", "shadowing", "beside", "removed", "renamed"],
)
def test_the_server_refuses_a_manifest_with_other_code(
    tmp_path: Path, tampered: dict[str, str]
) -> None:
    vouched = signed(tmp_path, vouched_digest(manifest(FILES)))
    with pytest.raises(InputError) as refused:
        check_trust(tmp_path, manifest(tampered), vouched)
    assert refused.value.code == "bad-trust"


def test_the_server_refuses_another_function_of_the_same_code(tmp_path: Path) -> None:
    vouched = signed(tmp_path, vouched_digest(manifest(FILES)))
    with pytest.raises(InputError, match="not what was vouched for"):
        check_trust(tmp_path, manifest(FILES, entry="serve:other"), vouched)


def test_trust_in_a_file_is_none_in_code_beside_it(tmp_path: Path) -> None:
    vouched = signed(tmp_path, "a" * 64)
    assert check_trust(tmp_path, manifest({NATIVE: "a" * 64}), vouched)
    with pytest.raises(InputError, match="not what was vouched for"):
        check_trust(
            tmp_path, manifest({NATIVE: "a" * 64, "model/native/code/numpy.py": "b"}), vouched
        )


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, False, "is pickle and can run code"),
        ({"serialization": "skops", "types": ("sklearn.tree._tree.Tree",)}, False, "Tree"),
        ({"serialization": "skops"}, True, "brings Python code"),
    ],
)
def test_what_can_run_code_needs_a_word_at_the_server(
    tmp_path: Path, changes: dict[str, Any], code: bool, said: str
) -> None:
    files = {NATIVE: "a" * 64} | ({SERVE: "b" * 64} if code else {})
    with pytest.raises(RefusedError, match=said) as refused:
        check_trust(tmp_path, manifest(files, **changes), None)
    assert refused.value.code == "untrusted-model"


def test_a_skops_file_of_harmless_types_needs_none(tmp_path: Path) -> None:
    assert not check_trust(tmp_path, manifest({NATIVE: "a" * 64}, serialization="skops"), None)


def test_code_beside_a_plain_file_is_not_loaded_without_trust(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="brings Python code"):
        load_scorer(tmp_path, manifest({NATIVE: "a" * 64} | FILES), "native", trusted=False)


@pytest.fixture
def paths_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_shadowing_package_without_trust_is_never_imported(
    tmp_path: Path, paths_restored: None
) -> None:
    """Its code leaves a mark when it is imported, and the pickle names it."""
    mark, package = tmp_path / "ran", tmp_path / "code" / "shadow_x"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\n")
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cshadow_x\nModel\n.")
    before = list(sys.path)
    with pytest.raises(RefusedError) as refused:
        open_model(path, trusted=False, code=(package,))
    assert refused.value.hint == f'doorstep trust {path} --code {package} --why "..."'
    assert sys.path == before
    assert "shadow_x" not in sys.modules
    assert not mark.exists()


def test_files_beside_a_function_are_not_run(tmp_path: Path, paths_restored: None) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "beside_x.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (tmp_path / "lonely_x.py").write_text("import beside_x\ndef predict(rows, c): return []\n")
    with pytest.raises(InputError, match="beside_x"):
        open_model(f"{tmp_path}/lonely_x.py:predict", trusted=True)
    assert not mark.exists()
    open_model(f"{tmp_path}/lonely_x.py:predict", trusted=True, code=(tmp_path / "beside_x.py",))
    assert mark.exists()


def test_the_digest_changes_with_every_file_of_code(tmp_path: Path) -> None:
    package = tmp_path / "credit"
    package.mkdir()
    (package / "__init__.py").write_text("")
    model = tmp_path / "model.pkl"
    model.write_bytes(pickle.dumps({}))
    assert find_source(model).digest == digest_of(model.read_bytes())
    before = find_source(model, (package,)).digest
    (package / "rule.py").write_text("LIMIT = 1\n")
    added = find_source(model, (package,)).digest
    (package / "rule.py").write_text("LIMIT = 2\n")
    assert len({before, added, find_source(model, (package,)).digest}) == 3


def test_source_without_a_function_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "serve.py"
    path.write_text("x = 1\n")
    with pytest.raises(DoorstepError, match="which function"):
        find_source(path)
