from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.kernel.keys import (
    create_keys,
    load_personal_key,
    load_public_key,
    load_signing_key,
    load_token,
    new_signing_key,
    parse_public_key,
    parse_signing_key,
)
from doorstep.kernel.note import Checkpoint, open_checkpoint, open_note, sign_note

# Published with Go's golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NOTE = (
    f"{TEXT}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY = new_signing_key("doorstep/local")
CHECKPOINT = Checkpoint("doorstep/local", 7, bytes(range(32)))
SIGNED = sign_note(CHECKPOINT.to_text(), KEY)


def test_gos_published_note_is_opened():
    key = parse_public_key(PETER)
    assert key.to_text() == PETER
    assert open_note(NOTE, key) == TEXT


def test_a_key_survives_being_written_and_read():
    again = parse_signing_key(KEY.to_text())
    assert again.to_text() == KEY.to_text()
    assert again.public == parse_public_key(KEY.public.to_text())
    assert again.public.verify(b"x", KEY.sign(b"x"))


def test_a_signature_is_of_one_message_by_one_key():
    signature = KEY.sign(b"x")
    assert not KEY.public.verify(b"y", signature)
    assert not new_signing_key("other").public.verify(b"x", signature)
    assert not KEY.public.verify(b"x", signature[:-1])
    assert not KEY.public.verify(b"x", b"")


def test_the_private_half_is_not_printed():
    assert KEY.to_text().rpartition("+")[2] not in repr(KEY)


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "a+b+c", PETER[:-1], PETER.replace("c74f20a3", "c74f20a4"), "a b" + PETER,
     PETER.replace("PeterNeumann", "Peter"), "++", "\ud800+00+AA==", "x+0g+" + "A" * 44],
)  # fmt: skip
def test_text_that_is_no_public_key_is_refused(text: str):
    with pytest.raises(InputError) as refused:
        parse_public_key(text)
    assert refused.value.code == "bad-key"


def test_a_damaged_private_key_is_refused_without_quoting_it():
    line = KEY.to_text()
    for text in ("", PETER, line[:-4], line.replace("local", "other"), "PRIVATE+KEY+"):
        with pytest.raises(InputError) as refused:
            parse_signing_key(text)
        assert line[-20:-4] not in refused.value.message


def test_keys_are_private_and_made_once(tmp_path: Path):
    create_keys(tmp_path, "doorstep/local")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    create_keys(tmp_path, "doorstep/other")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    private = ("ledger.key", "plan.key", "personal.key", "token")
    assert set(first) == {*private, "ledger.pub", "plan.pub"}
    for name in private:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    ledger = load_signing_key(tmp_path / "ledger.key")
    assert ledger.public.name == "doorstep/local/ledger"
    assert load_public_key(tmp_path / "ledger.pub") == ledger.public
    assert ledger.public != load_public_key(tmp_path / "plan.pub")
    assert len(load_token(tmp_path)) == 43


def test_the_key_of_personal_fields_is_private_whole_and_never_shown(tmp_path: Path):
    create_keys(tmp_path, "doorstep/local")
    path = tmp_path / "personal.key"
    key = load_personal_key(tmp_path)
    assert key.sealing == load_personal_key(tmp_path).sealing and len(key.sealing) == 64
    assert repr(key) == "PersonalKey(...)"
    line = path.read_text()
    for broken in ("", "x", line[:-10], line.replace("PERSONAL", "PRIVATE"), line.strip() + "="):
        path.write_text(broken)
        with pytest.raises(InputError) as refused:
            load_personal_key(tmp_path)
        assert refused.value.code == "bad-key"
        assert line.partition("+KEY+")[2].strip() not in refused.value.message
    path.chmod(0o644)
    with pytest.raises(RefusedError):
        load_personal_key(tmp_path)


def test_a_key_that_others_may_read_is_refused_with_the_command_that_helps(tmp_path: Path):
    create_keys(tmp_path, "doorstep/local")
    (tmp_path / "ledger.key").chmod(0o640)
    with pytest.raises(RefusedError, match="640") as refused:
        load_signing_key(tmp_path / "ledger.key")
    assert refused.value.code == "key-not-private"
    assert refused.value.hint.startswith("chmod 600")


def test_a_missing_or_damaged_key_file_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError):
        load_signing_key(tmp_path / "ledger.key")
    with pytest.raises(NotFoundError):
        load_public_key(tmp_path / "ledger.pub")
    with pytest.raises(NotFoundError):
        load_token(tmp_path)
    (tmp_path / "token").touch(0o600)
    with pytest.raises(InputError):
        load_token(tmp_path)


def test_a_checkpoint_survives_being_signed_and_opened():
    assert open_checkpoint(SIGNED, KEY.public) == CHECKPOINT
    assert SIGNED.startswith("doorstep/local\n7\nAAECAwQF")


def test_signatures_of_other_keys_are_passed_over():
    other = new_signing_key("witness")
    both = SIGNED + sign_note(CHECKPOINT.to_text(), other).rpartition("\n\n")[2]
    assert open_checkpoint(both, KEY.public) == open_checkpoint(both, other.public) == CHECKPOINT


def test_a_key_of_the_same_name_is_another_key():
    with pytest.raises(InputError, match="has not signed"):
        open_checkpoint(SIGNED, new_signing_key("doorstep/local").public)


@given(place=st.integers(0, len(SIGNED) - 1), replacement=st.characters(codec="utf-8"))
def test_a_note_with_one_character_changed_never_says_something_else(place: int, replacement: str):
    changed = SIGNED[:place] + replacement + SIGNED[place + 1 :]
    try:
        assert open_checkpoint(changed, KEY.public) == CHECKPOINT
    except InputError as error:
        assert error.code == "bad-note"


@given(st.text())
def test_any_text_is_either_a_note_or_refused(text: str):
    with pytest.raises(InputError):
        open_checkpoint(text, KEY.public)


@pytest.mark.parametrize(
    "text",
    ["o\n7\n", "o\n-1\nAAAA\n", "o\n07\n" + "A" * 43 + "=\n", "\n7\n" + "A" * 43 + "=\n",
     "o\n7\nAAAA\n", "o\n7\n!\n", "o\n" + "9" * 30 + "\n" + "A" * 43 + "=\n"],
)  # fmt: skip
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str):
    with pytest.raises(InputError):
        open_checkpoint(sign_note(text, KEY), KEY.public)


@pytest.mark.parametrize("text", ["", "no line break", "tab\there\n", "nul\0\n"])
def test_a_text_that_cannot_be_a_note_is_not_signed(text: str):
    with pytest.raises(InputError):
        sign_note(text, KEY)


def test_a_lost_key_of_personal_fields_is_not_replaced_while_something_needs_it(tmp_path):
    create_keys(tmp_path, "doorstep/local")
    (tmp_path / "personal.key").unlink()
    (tmp_path / "personal.db").write_bytes(b"keys of persons")
    with pytest.raises(RefusedError) as refused:
        create_keys(tmp_path, "doorstep/local")
    assert refused.value.code == "key-lost"
    assert not (tmp_path / "personal.key").exists()
    (tmp_path / "personal.db").unlink()
    create_keys(tmp_path, "doorstep/local")
    assert (tmp_path / "personal.key").exists()
