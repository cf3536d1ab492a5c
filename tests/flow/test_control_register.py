"""Registering over HTTP: the same bundle is the same version, and a bad one leaves nothing."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import httpx
import pytest
from control_cases import Bundle, Unchanged, put

from doorstep.core.errors import DoorstepError
from doorstep.core.ids import digest_of
from doorstep.kernel.keys import load_token
from doorstep.testing.installation import RunningInstallation, service_file


@pytest.fixture
def bundle(tmp_path: Path, request: pytest.FixtureRequest) -> Bundle:
    # A seed of its own, so that no other test has published the same bytes.
    return Bundle(tmp_path, seed=abs(hash(request.node.name)) % 2**31)


def refusal(here: RunningInstallation, file: str, digest: str, holdout: str = "") -> DoorstepError:
    with pytest.raises(DoorstepError) as caught:
        here.client.register(file, digest, holdout=holdout)
    return caught.value


def test_the_same_bundle_twice_is_the_same_version(installation, bundle: Bundle):
    file = service_file("twice")
    bundle.upload(installation)
    first = installation.client.register(file, bundle.digest, holdout=bundle.holdout)
    with Unchanged(installation):
        # Without sending it again, and after sending it again.
        second = installation.client.register(file, bundle.digest, holdout=bundle.holdout)
        bundle.upload(installation)
        third = installation.client.register(file, bundle.digest, holdout=bundle.holdout)
    assert (first.number, first.created) == (1, True)
    assert [(one.number, one.created) for one in (second, third)] == [(1, False)] * 2


def test_one_bundle_may_be_a_version_of_two_services(installation, bundle: Bundle):
    bundle.upload(installation)
    one = installation.client.register(service_file("pair-a"), bundle.digest)
    two = installation.client.register(service_file("pair-b"), bundle.digest)
    assert (one.service, one.number) == ("pair-a", 1)
    assert (two.service, two.number, two.digest) == ("pair-b", 1, one.digest)


def test_an_upload_with_the_wrong_digest_is_refused_and_not_kept(installation, bundle: Bundle):
    with Unchanged(installation):
        answer = put(installation, bundle.digest, b"something else")
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "wrong-digest"
    assert not (installation.home / "uploads" / bundle.digest).exists()


def test_an_upload_that_breaks_off_is_not_kept(installation, bundle: Bundle):
    uploads = installation.home / "uploads"
    before = set(uploads.iterdir())
    content = bundle.manifest
    link = http.client.HTTPConnection("127.0.0.1", int(installation.console_url.rpartition(":")[2]))
    link.putrequest("PUT", f"/api/v1/blobs/{bundle.digest}")
    link.putheader("Authorization", f"Bearer {load_token(installation.home / 'keys')}")
    link.putheader("Content-Length", str(len(content)))
    link.endheaders()
    link.send(content[: len(content) // 2])
    link.close()
    with Unchanged(installation):
        assert refusal(installation, service_file("broken-off"), bundle.digest).code == (
            "not-uploaded"
        )
    assert set(uploads.iterdir()) == before
    assert "internal error" not in (installation.home / "run" / "up.log").read_text()


def test_a_bundle_of_which_a_file_is_missing_is_refused(installation, bundle: Bundle):
    with Unchanged(installation):
        put(installation, bundle.digest, bundle.manifest)
        error = refusal(installation, service_file("incomplete"), bundle.digest)
    assert error.code == "not-uploaded"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"not json",
        b'{"format": 99}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"x" * 5_000_000,
    ],
)
def test_a_manifest_that_is_not_one_is_refused(installation, content: bytes):
    digest = digest_of(content)
    with Unchanged(installation):
        assert put(installation, digest, content).status_code == 201
        error = refusal(installation, service_file("no-manifest"), digest)
    assert error.code == "bad-manifest"


MODEL = "model/onnx/model.onnx"


@pytest.mark.parametrize(
    "path",
    [
        "../../escaped.onnx",
        "model/../../../escaped.onnx",
        "/tmp/escaped.onnx",
        "model\\\\..\\\\escaped.onnx",
        "./model.onnx",
        "",
        "manifest.json",
        "a\\u0000b",
        "C:/escaped.onnx",
    ],
)
def test_a_bundle_that_reaches_out_of_its_folder_is_refused(
    installation, bundle: Bundle, path: str
):
    manifest = bundle.rewritten((f'"{MODEL}"', f'"{path}"'))
    digest = digest_of(manifest)
    bundle.upload(installation)
    with Unchanged(installation):
        assert put(installation, digest, manifest).status_code == 201
        error = refusal(installation, service_file("escapes"), digest)
    assert error.code in ("unsafe-path", "bad-manifest", "bad-path")
    assert not list(installation.home.parent.rglob("escaped.onnx"))


def test_a_manifest_that_names_other_bytes_is_refused(installation, bundle: Bundle):
    size = (bundle.folder / MODEL).stat().st_size
    manifest = bundle.rewritten((f'"size":{size}', f'"size":{size + 1}'))
    bundle.upload(installation)
    with Unchanged(installation):
        put(installation, digest_of(manifest), manifest)
        error = refusal(installation, service_file("other-bytes"), digest_of(manifest))
    assert error.code == "wrong-size"


@pytest.mark.parametrize(
    ("holdout", "code"),
    [("0" * 64, "not-uploaded"), ("../../x", "bad-digest"), ("A", "bad-digest")],
)
def test_a_holdout_that_is_not_there_is_refused(installation, bundle: Bundle, holdout, code):
    bundle.upload(installation)
    with Unchanged(installation):
        error = refusal(installation, service_file("no-rows"), bundle.digest, holdout)
    assert error.code == code


def test_a_service_file_of_another_label_or_with_a_typo_is_refused(installation, bundle: Bundle):
    bundle.upload(installation)
    good = service_file("typo")
    with Unchanged(installation):
        other = refusal(installation, good.replace("label: label", "label: other"), bundle.digest)
        typo = refusal(installation, good.replace("release:", "relaese:"), bundle.digest)
    assert other.code == "wrong-label"
    assert typo.code == "bad-service-file"
    assert "relaese" in typo.message


def test_a_new_service_file_reaches_the_node_without_a_restart(installation):
    installation.register("patience")
    installation.serve("patience@1")
    fronts = installation.pids("front")
    quick = service_file("patience", more="serve: {timeout: 123ms}")
    changed = installation.client.apply(quick).changed

    def timeout_ms() -> int:
        found = httpx.get(f"{installation.data_url}/v1/services/patience", trust_env=False)
        return found.json()["timeout_ms"]

    installation.wait(lambda: timeout_ms() == 123, "a timeout of 123 ms")
    assert changed == ("serve.timeout",)
    assert installation.pids("front") == fronts


def test_a_holdout_that_is_no_table_is_refused_by_the_gates_in_words(installation, bundle: Bundle):
    junk = b"this is no parquet file" * 100
    bundle.upload(installation)
    put(installation, digest_of(junk), junk)
    installation.client.register(service_file("junk"), bundle.digest, holdout=digest_of(junk))
    try:
        run = installation.client.run_gates("junk@1")
    except DoorstepError as error:
        assert "Traceback" not in error.message
    else:
        assert run.verdict.value != "pass"
        assert json.dumps([one.reason for one in run.findings])
