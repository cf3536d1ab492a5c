"""The service file that `init` drafts, and what `check` and `doctor` find."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import pytest
from cli_case import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.cli import doctoring, drafting
from doorstep.cli.drafting import Asked, draft_service, field_spec, key_column, name_for
from doorstep.cli.registering import register_model
from doorstep.client import Client
from doorstep.core.contract import Field
from doorstep.core.errors import DoorstepError, RefusedError
from doorstep.core.extras import install_line
from doorstep.core.ids import parse_name
from doorstep.core.servicefile import parse_service_file
from doorstep.formats.columns import Table
from doorstep.formats.table import read_table
from doorstep.journal.block import FORMAT, FrameKind, append_frame
from doorstep.kernel.home import open_home
from doorstep.kernel.home_lock import HomeLock, holder_of
from fakes.tables import column_of


def drafted(loans: Path, **changes: object) -> drafting.Drafted:
    asked = Asked("model.pkl", Path("train.csv"), "default", Path("doorstep.yaml"))
    return draft_service(changed(asked, **changes))


def changed(asked: Asked, **changes: object) -> Asked:
    from dataclasses import replace

    return replace(asked, **changes)  # type: ignore[arg-type]


@pytest.fixture
def trusted(loans: Path, run: Run) -> Path:
    assert run("trust model.pkl --why mine").code == 0
    return loans


def test_the_drafted_file_is_short_commented_and_reads_back_to_what_was_found(
    trusted: Path,
) -> None:
    found = drafted(trusted, holdout=Path("test.csv"))
    assert 20 <= found.lines <= 35
    assert found.text.count("#") >= 5
    read = parse_service_file(found.text)
    assert (read.service, read.model.task, read.model.positive) == ("loans", "binary", "yes")
    assert read.ids.key == "application_id"
    assert (read.data.holdout.path, read.data.train.path) == ("test.csv", "train.csv")  # type: ignore[union-attr]
    assert list(read.contract.inputs) == [
        *("name", "email", "duration", "amount", "income", "age", "purpose")
    ]
    assert read.contract.inputs["email"].personal == "pseudonymise"
    assert read.contract.inputs["purpose"].values is not None
    assert read.contract.context["sex"].protected


def test_ranges_come_from_the_whole_table_and_not_from_its_first_rows(
    trusted: Path,
) -> None:
    lines = (trusted / "train.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    cells[3] = "999"
    (trusted / "train.csv").write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    found = drafted(trusted, holdout=Path("test.csv"))
    assert found.draft.inputs["duration"].range == (4, 999)


def test_one_file_is_split_without_a_row_in_common_and_the_model_counts_as_having_seen_both(
    trusted: Path, run: Run
) -> None:
    said = run("init model.pkl --train train.csv --label default")
    assert said.code == 0
    assert "The model may have seen them" in said.text
    kept, held = read_table(Path("train-kept.csv")), read_table(Path("train-holdout.csv"))
    assert kept.rows + held.rows == read_table(Path("train.csv")).rows
    ids = [set(one.column("application_id").values.tolist()) for one in (kept, held)]
    assert not ids[0] & ids[1]
    # What the model was trained on is the whole file: only that makes its gate inconclusive.
    read = parse_service_file(Path("doorstep.yaml").read_text())
    assert read.data.train is not None
    assert read.data.train.path == "train.csv"


def test_a_hold_out_file_of_other_data_is_warned_of(trusted: Path, run: Run) -> None:
    (trusted / "other.csv").write_text("height,width\n" + "1,2\n" * 50)
    said = run("init model.pkl --train train.csv --holdout other.csv --label default --force")
    assert said.code == 0, said.text
    assert "! other.csv lacks" in said.text
    assert "expected rows like those of train.csv: name others with --holdout" in said.text
    assert not drafted(trusted, holdout=Path("test.csv")).warnings


def test_a_model_and_the_service_file_of_another_are_both_named(trusted: Path, run: Run) -> None:
    assert run("init model.pkl --train train.csv --holdout test.csv --label default").code == 0
    other = trusted / "other"
    other.mkdir()
    for name in ("train.csv", "test.csv"):
        (other / name).write_text("height,width,default\n" + "1,2,yes\n3,1,no\n" * 50)
    (other / "doorstep.yaml").write_text(
        "service: other\nmodel: {label: default}\ndata: {train: train.csv, holdout: test.csv}\n"
    )
    with pytest.raises(DoorstepError) as caught:
        register_model(
            Unanswering.__new__(Unanswering), "model.pkl", other / "doorstep.yaml",
            lambda *_: None, with_gates=False,
        )  # fmt: skip
    assert f"model.pkl does not fit the data of {other}/doorstep.yaml" in caught.value.message
    assert caught.value.hint == "doorstep register model.pkl --file doorstep.yaml"


def test_init_executes_nothing_of_a_pickle_that_nobody_vouched_for(here: Path, run: Run) -> None:
    mark = here / "executed"
    code = f"cos\nsystem\n(S'touch {mark}'\ntR."
    (here / "model.pkl").write_bytes(code.encode())
    (here / "train.csv").write_text("a,b\n1,2\n2,1\n")
    said = run("init model.pkl --train train.csv --label b")
    assert said.code == 1
    assert "os.system" in said.text
    assert 'If you made it:  doorstep trust model.pkl --why "..."' in said.text
    assert not mark.exists()
    assert not (here / "doorstep.yaml").exists()


def test_trusting_names_what_a_pickle_would_call(here: Path, run: Run) -> None:
    (here / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    said = run("trust model.pkl --why 'I made it'")
    assert said.code == 0
    assert "would call os.system" in said.text


def test_a_changed_file_is_not_trusted_any_more(trusted: Path, run: Run) -> None:
    with (trusted / "model.pkl").open("ab") as file:
        file.write(b"\n")
    said = run("init model.pkl --train train.csv --holdout test.csv --label default")
    assert said.code == 1
    assert "unsigned pickle" in said.text


def test_a_function_is_a_model_once_its_file_is_vouched_for(loans: Path, run: Run) -> None:
    (loans / "serve.py").write_text("def predict(rows, context):\n    return [0.5 for _ in rows]\n")
    words = "serve.py:predict --train train.csv --holdout test.csv --label default"
    assert "nobody here has vouched for it" in run(f"init {words}").text
    assert run("trust serve.py:predict --why mine").code == 0
    said = run(f"init {words} --json")
    assert said.code == 0
    found = json.loads(said.text[said.text.index("{\n") :])
    assert "application_id" not in found["inputs"]
    assert found["key"] == "application_id"


class Reached(Exception):
    """The bundle was about to be sent."""


class Unanswering(Client):
    def upload(self, *_: object, **__: object) -> NoReturn:
        raise Reached


def test_code_that_changed_after_it_was_vouched_for_is_not_registered(
    trusted: Path, run: Run
) -> None:
    words = "init model.pkl --train train.csv --holdout test.csv --label default"
    assert run(words).code == 0
    package = trusted / "src" / "credit_y"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "rule.py").write_text("LIMIT = 1\n")
    with (trusted / "doorstep.yaml").open("a") as file:
        file.write("\nruntime:\n  code: [src/credit_y]\n")
    send = partial(
        register_model,
        Unanswering("http://127.0.0.1:9", ""),
        "model.pkl",
        Path("doorstep.yaml"),
        lambda what, share: None,
        with_gates=False,
    )
    command = 'doorstep trust model.pkl --code src/credit_y --why "..."'
    assert command in run("trust model.pkl --why mine").text
    with pytest.raises(RefusedError, match="vouched for it as it is now") as refused:
        send()
    assert refused.value.hint == command
    said = run("trust model.pkl --code src/credit_y --why mine")
    assert "model.pkl, 3 files: model.pkl, src/credit_y/__init__.py, src/credit_y/rule.py" in (
        said.text
    )
    with pytest.raises(Reached):
        send()
    (package / "rule.py").write_text("LIMIT = 2\n")
    with pytest.raises(RefusedError) as refused:
        send()
    assert (refused.value.code, refused.value.hint) == ("untrusted-model", command)


def test_the_json_of_init_says_what_was_found(trusted: Path, run: Run) -> None:
    said = run("init model.pkl --train train.csv --holdout test.csv --label default --json")
    found = json.loads(said.text[said.text.index("{\n") :])
    assert found["personal"] == ["name", "email"]
    assert found["labels"] == ["no", "yes"]
    assert found["lines"] == Path("doorstep.yaml").read_text().count("\n")


@given(st.text(max_size=80), st.text(max_size=80))
def test_every_folder_and_file_gives_a_name(folder: str, model: str) -> None:
    clean = folder.replace("\0", "").replace("/", "").replace("..", "") or "x"
    parse_name(name_for(model.replace("\0", ""), Path("/srv") / clean))


def test_the_name_comes_from_the_folder_then_from_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "Credit Risk_2"
    folder.mkdir()
    assert name_for("model.pkl", folder) == "credit-risk-2"
    assert name_for("fraud_model.pkl", Path("/")) == "fraud-model"


def test_whole_numbers_are_written_without_a_point() -> None:
    found = field_spec(Field(name="a", type="int", range_min=1.0, range_max=72.0))
    assert found.range == (1, 72)
    assert isinstance(found.range[0], int)  # type: ignore[index]
    assert field_spec(Field(name="a", type="float", range_min=0.5, range_max=None)).range is None


@pytest.mark.parametrize(("count", "written"), [(12, True), (13, False)])
def test_a_few_short_categories_are_written_and_many_are_left_to_the_data(
    count: int, written: bool
) -> None:
    values = tuple(f"{one}" for one in range(count))
    found = field_spec(Field(name="a", type="category", values=values))
    assert (found.values == values) is written


def test_a_key_is_named_like_one_and_different_in_every_row() -> None:
    columns = (
        column_of("amount", [1, 2, 3], "int"),
        column_of("customer_id", [7, 7, 8], "int"),
        column_of("loanId", ["a", "b", "c"], "text"),
    )
    table = Table(columns, 3)
    assert key_column(table, ()) == "loanId"
    assert key_column(table, {"loanId"}) == ""
    assert key_column(Table(columns[:2], 3), ()) == ""


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_written_table_reads_back_to_the_same_numbers(
    rows: list[tuple[int, float, str, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kinds = ("int", "float", "text", "bool")
    columns = tuple(
        column_of(kind, [row[at] for row in rows], kind)  # type: ignore[arg-type]
        for at, kind in enumerate(kinds)
    )
    path = tmp_path_factory.mktemp("table") / "table.csv"
    drafting.write_csv(Table(columns, len(rows)), path)
    found = read_table(path, texts=["text"])
    assert found.rows == len(rows)
    for kind in ("int", "float", "bool"):
        assert np.array_equal(found.column(kind).as_numbers(), [row[kinds.index(kind)] for row in rows])  # fmt: skip  # noqa: E501


def test_check_explains_every_key_with_its_reason(trusted: Path, run: Run) -> None:
    run("init model.pkl --train train.csv --holdout test.csv --label default")
    said = run("check --explain release")
    assert said.code == 0
    assert "1000: no errors are proven after 496" in said.text
    assert "release.guardrails[].margins" in said.text, "also keys of lists that are empty here"
    assert "serve.timeout" not in said.text
    assert "serve.timeout" in run("check doorstep.yaml all --explain").text
    one_key = run("check --explain release.deadline").text
    assert "release.deadline.then" in one_key
    assert "release.bake" not in one_key
    overview = run("check --explain").text
    assert "how a version is carried onto its service" in overview
    assert "release.bake" not in overview
    assert "no-section" in run("check doorstep.yaml releases --explain").text
    found = run("check --explain --json").text
    keys = {one["path"]: one for one in json.loads(found[found.index("{\n") :])["explained"]}
    assert keys["service"]["source"] == "file"
    assert keys["release.shadow.requests"]["value"] == "1000"


def test_check_leads_from_a_problem_to_the_keys_of_its_section(here: Path, run: Run) -> None:
    text = "service: loans\nmodel: {label: bad}\ndata: {holdout: h.csv}\nrelease: {bake: long}\n"
    Path("doorstep.yaml").write_text(text)
    said = run("check")
    assert (said.code, "next: doorstep check release --explain" in said.text) == (1, True)
    explained = run("check release --explain").text
    assert "written as a duration such as 10m" in explained, "a broken file is explained as well"


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ("{}", "2.9 GB a day at 100 predictions a second (337 bytes each)"),
        ("{record: no-inputs}", "0.9 GB a day at 100 predictions a second (105 bytes each)"),
        ("{record: sample 50%}", "1.9 GB a day at 100 predictions a second (221 bytes each)"),
    ],
)
def test_check_says_what_the_journal_will_take(here: Path, run: Run, serve: str, said: str) -> None:
    fields = ", ".join(f"n{at}: {{type: float}}" for at in range(29))
    (here / "doorstep.yaml").write_text(
        "doorstep: 1\nservice: a\nmodel: {label: y}\ndata: {holdout: gone.csv}\n"
        f"contract: {{inputs: {{{fields}}}}}\nserve: {serve}\n"
    )
    found = run("check --rate 100")
    assert found.code == 0
    assert said in found.text
    assert "days fit into the 100 GB" in found.text
    assert "at 10 predictions a second" in run("check").text
    slow = run("check --rate 1").text
    assert "at 1 predictions a second" in slow
    assert "fit into" not in slow


def test_check_names_data_that_is_not_there(here: Path, run: Run) -> None:
    text = "doorstep: 1\nservice: a\nmodel: {label: y}\ndata: {holdout: gone.csv}\n"
    (here / "doorstep.yaml").write_text(text)
    said = run("check")
    assert said.code == 0
    assert "data.holdout names gone.csv, which is not there" in said.text
    assert run("check --environment production").code == 1


def test_help_reads_nothing_heavy() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from doorstep.cli.main import main\n"
        "sys.argv = ['doorstep', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'duckdb', 'sqlalchemy', 'litestar', 'onnxruntime', 'httpx', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("init", "check", "doctor", "up", "down", "console", "trust", "register"):
        assert f"\n  {name}" in done.stdout


def test_doctor_names_blocks_whose_records_are_in_no_answer(here: Path) -> None:
    home = open_home(here / "home", create=True)
    node = home.journal / "n1"
    node.mkdir()
    (node / "b-front-1-00000001.damaged").touch()
    for name, format in (("b-front-1-00000002.block", FORMAT), ("b-front-1-00000003.block", 2)):
        header = {"format": format, "node": "n1", "boot": "b", "slot": "front-1"}
        body = msgspec.msgpack.encode(header | {"sequence": 1, "opened_at": 1})
        frames = bytearray()
        append_frame(frames, FrameKind.HEADER, 0, 0, body)
        (node / name).write_bytes(frames)
    found = {one.state: one.text for one in doctoring.examine(str(home.path))
             if one.subject == "files of n1"}  # fmt: skip
    assert found["fail"] == (
        "b-front-1-00000003.block was written by a newer Doorstep, and its records are in no answer"
    )
    assert "b-front-1-00000001.damaged" in found["inconclusive"]


def test_doctor_ends_with_zero_or_says_what_is_wrong(here: Path, run: Run) -> None:
    said = run("doctor --json")
    found = msgspec.json.decode(said.text[said.text.index("[\n") :], type=list[doctoring.Line])
    states = {one.subject: one.state for one in found}
    assert states["python"] == "pass"
    assert states["home"] == "absent"
    assert said.code == doctoring.verdict_of(found)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((), 0),
        (("pass", "absent"), 0),
        (("pass", "inconclusive"), 4),
        (("inconclusive", "fail"), 1),
    ],
)
def test_the_worst_line_decides_how_doctor_ends(states: tuple[str, ...], code: int) -> None:
    lines = [doctoring.Line(one, "a", "b") for one in states]  # type: ignore[arg-type]
    assert doctoring.verdict_of(lines) == code


def test_doctor_names_two_packages_that_overwrite_each_other() -> None:
    both = {"xgboost": "3.0", "xgboost-cpu": "3.0"}
    (found,) = doctoring._rivals(lambda name: both.get(name, ""))
    assert found.state == "inconclusive"
    assert "overwrite each other" in found.text
    assert not list(doctoring._rivals(lambda name: "1" if name == "xgboost" else ""))


def test_a_missing_extra_names_the_line_that_installs_it() -> None:
    found = {one.subject: one for one in doctoring._extras(lambda _: "")}
    assert found["sklearn"].state == "absent"
    # It is right in a clone too: nothing of Doorstep's own is fetched from an index.
    assert 'pip install "pandas>=2.2" "scikit-learn>=1.5" "skops>=0.13"' in found["sklearn"].text
    assert install_line("demo").startswith('pip install "onnx>=')
    assert "doorstep" not in install_line("demo")
    present = doctoring._extras(lambda _: "1.0")
    assert {one.state for one in present} == {"pass"}


def test_a_missing_core_package_fails() -> None:
    first = list(doctoring._packages(lambda name: "" if name == "duckdb" else "1"))[1]
    assert (first.state, first.text) == ("fail", "duckdb not installed")


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        assert not doctoring._is_free(held.getsockname()[1])


def test_the_holder_of_a_home_is_known_while_it_holds_it(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home", create=True)
    assert holder_of(home.path) is None
    with HomeLock(home):
        assert holder_of(home.path) == os.getpid()
    assert holder_of(home.path) is None
    (home.run / "up.lock").write_text("1\n")
    assert holder_of(home.path) is None, "a holder that was killed leaves its number behind"
