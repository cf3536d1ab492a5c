"""docs/generate.py: what it finds in source, and what it refuses. `make check` runs it on ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "docs" / "generate.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load()


def test_a_code_is_found_with_its_kind_place_and_words(
    tmp_path: Path, generate: ModuleType
) -> None:
    source = write(tmp_path, "gate/decide.py", 'raise RefusedError("no-luck", f"{a} of " f"{b!r}")')
    assert [*generate.find_errors(source)] == [("no-luck", "refused", "gate/decide.py", "… of …")]


def test_both_codes_of_a_choice_are_found(tmp_path: Path, generate: ModuleType) -> None:
    source = write(tmp_path, "a.py", 'InputError("x-one" if late else "x-two", "said")')
    assert {one.code for one in generate.find_errors(source)} == {"x-one", "x-two"}


def test_a_document_that_cannot_be_read_gives_its_own_code(
    tmp_path: Path, generate: ModuleType
) -> None:
    source = write(tmp_path, "a.py", 'decode_part(data, PlanRoot, "plan-root")')
    assert [one.code for one in generate.find_errors(source)] == ["bad-plan-root"]


def test_a_code_that_is_made_at_run_time_is_refused(tmp_path: Path, generate: ModuleType) -> None:
    source = write(tmp_path, "a.py", 'def f(code):\n    raise InputError(code, "said")')
    with pytest.raises(ValueError, match=r"line 2 of a\.py:f: no literal code"):
        [*generate.find_errors(source)]


def test_the_test_kit_is_left_out(tmp_path: Path, generate: ModuleType) -> None:
    source = write(tmp_path, "testing/fake.py", 'InputError("only-in-tests", "said")')
    assert not [*generate.find_errors(source)]


def test_a_code_without_a_sentence_is_named(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match="no sentence for: no-luck"):
        generate._compare({"no-luck", "known"}, {"known"})


def test_a_sentence_that_no_code_has_is_named(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"nothing raises: .*gone"):
        generate._compare({"known"}, {"known", "gone"})


def test_check_writes_nothing_and_names_the_page_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = load()
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    monkeypatch.setattr(generate, "PAGES", {"doorstep.schema.json": generate.schema_page})
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    assert "docs/reference/doorstep.schema.json differs" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
