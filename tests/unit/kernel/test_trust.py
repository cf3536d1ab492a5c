from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from doorstep.core.errors import InputError, RefusedError, UsageError
from doorstep.core.ids import digest_of
from doorstep.kernel.trust import (
    Trust,
    TrustStore,
    digest_file,
    open_trust,
    trust_folder,
    who_am_i,
)

MODEL = digest_of(b"model")
OTHER = digest_of(b"other")


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "trust")


def sign(store: TrustStore, sha256: str = MODEL, why: str = "trained by me"):
    return store.sign(sha256, why=why, who="ada@lab", at=1_000_000)


def said(store: TrustStore) -> Trust:
    signed = store.find(MODEL)
    assert signed is not None
    return msgspec.json.decode(signed.statement, type=Trust)


def test_nothing_is_trusted_at_first(store: TrustStore):
    assert store.find(MODEL) is None


def test_a_signed_file_is_trusted_by_its_bytes_alone(store: TrustStore, tmp_path: Path):
    (tmp_path / "model.pkl").write_bytes(b"model")
    sign(store, digest_file(tmp_path / "model.pkl"))
    trust = said(store)
    assert (trust.why, trust.who) == ("trained by me", "ada@lab")
    assert store.find(OTHER) is None


def test_the_key_and_the_statements_are_private(store: TrustStore, tmp_path: Path):
    sign(store)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "trust").iterdir()}
    assert modes["trust.key"] == modes[f"{MODEL}.json"] == 0o600
    assert (tmp_path / "trust").stat().st_mode & 0o777 == 0o700


def test_trusting_again_replaces_the_reason(store: TrustStore):
    sign(store)
    sign(store, why="audited")
    assert said(store).why == "audited"


def test_a_statement_copied_from_another_users_store_is_not_believed(
    store: TrustStore, tmp_path: Path
):
    stranger = TrustStore(tmp_path / "stranger")
    sign(stranger)
    sign(store, OTHER)
    name = f"{MODEL}.json"
    (tmp_path / "trust" / name).write_bytes((tmp_path / "stranger" / name).read_bytes())
    with pytest.raises(RefusedError) as refused:
        store.find(MODEL)
    assert refused.value.code == "trust-broken"


def test_a_statement_about_another_file_is_not_believed(store: TrustStore, tmp_path: Path):
    sign(store)
    folder = tmp_path / "trust"
    (folder / f"{OTHER}.json").write_bytes((folder / f"{MODEL}.json").read_bytes())
    with pytest.raises(RefusedError):
        store.find(OTHER)


def test_a_changed_statement_is_not_believed(store: TrustStore, tmp_path: Path):
    signed = sign(store)
    changed = msgspec.structs.replace(
        signed, statement=signed.statement.replace("trained by me", "stolen from x")
    )
    (tmp_path / "trust" / f"{MODEL}.json").write_bytes(msgspec.json.encode(changed))
    with pytest.raises(RefusedError):
        store.find(MODEL)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff\xfe", b"{" * 20_000])
def test_a_damaged_statement_is_not_believed(store: TrustStore, tmp_path: Path, data: bytes):
    sign(store)
    (tmp_path / "trust" / f"{MODEL}.json").write_bytes(data)
    with pytest.raises(RefusedError):
        store.find(MODEL)


def test_a_statement_whose_key_is_gone_is_not_believed(store: TrustStore, tmp_path: Path):
    sign(store)
    (tmp_path / "trust" / "trust.key").unlink()
    with pytest.raises(RefusedError):
        store.find(MODEL)


@pytest.mark.parametrize("why", ["", "   ", "x" * 501])
def test_trust_needs_a_reason(store: TrustStore, tmp_path: Path, why: str):
    with pytest.raises(UsageError) as refused:
        sign(store, why=why)
    assert refused.value.code == "no-reason"
    assert not (tmp_path / "trust").exists()


@pytest.mark.parametrize("sha256", ["", "../../x", "A" * 64])
def test_only_a_digest_names_a_statement(store: TrustStore, sha256: str):
    with pytest.raises(InputError):
        store.find(sha256)
    with pytest.raises(InputError):
        sign(store, sha256)


def test_whoever_knows_the_key_can_check_a_sent_statement(store: TrustStore):
    signed = sign(store)
    assert open_trust(signed, signed.key, MODEL).why == "trained by me"
    for key, sha256 in ((signed.key, OTHER), ("x+y+z", MODEL)):
        with pytest.raises(InputError):
            open_trust(signed, key, sha256)
    for field in ("signature", "statement"):
        with pytest.raises(InputError):
            open_trust(msgspec.structs.replace(signed, **{field: "!"}), signed.key, MODEL)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "trust").write_text("")
    with pytest.raises(RefusedError) as refused:
        sign(TrustStore(tmp_path / "trust" / "deep"))
    assert refused.value.code == "trust-not-writable"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError) as refused:
            digest_file(path)
        assert refused.value.code == "unreadable-file"


def test_the_store_is_in_the_users_folder_for_settings():
    environ = {"HOME": "/home/ada"}
    assert trust_folder(environ, "linux") == Path("/home/ada/.config/doorstep/trust")
    assert trust_folder({**environ, "XDG_CONFIG_HOME": "/c"}, "linux") == Path("/c/doorstep/trust")
    mac = trust_folder(environ, "darwin")
    assert mac == Path("/home/ada/Library/Preferences/doorstep/trust")
    assert trust_folder({"DOORSTEP_TRUST": "/t"}, "linux") == Path("/t")


def test_who_i_am_has_a_user_and_a_host():
    assert all(who_am_i().partition("@")[::2])
