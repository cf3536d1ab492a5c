"""One table of operations: REST, OpenAPI and the SDK say the same."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from doorstep.api.openapi import openapi
from doorstep.client import Client
from doorstep.core.errors import RefusedError
from doorstep.core.people import OWNER
from doorstep.operations import table
from doorstep.register.surface import ApplyService
from doorstep.testing.installation import service_file

PUBLISHED = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"
NOT_OPERATIONS = {
    *("call", "close", "upload", "export", "export_ledger", "invite", "stream_outcomes")
}


class Asked(Exception):
    """Carries what the client was about to send."""


class Recorder(Client):
    """A client that says what it would ask instead of asking."""

    def call(self, name: str, asked: msgspec.Struct, answer: type) -> Any:
        raise Asked((name, type(asked), answer))


def sample(kind: Any) -> Any:
    text = str(kind)
    if "Iterable" in text or "tuple" in text:
        return ()
    return {str: "x", int: 1, float: 1.0, bool: False}.get(kind)


def asked_by(method: Any, hints: dict[str, Any]) -> tuple[str, type, type]:
    given = {
        name: sample(hints[name])
        for name, one in inspect.signature(method).parameters.items()
        if one.default is inspect.Parameter.empty
    }
    with pytest.raises(Asked) as caught:
        method(**given)
    return caught.value.args[0]


def methods() -> dict[str, Any]:
    client = Recorder("http://127.0.0.1:1", "token")
    found = inspect.getmembers(client, inspect.ismethod)
    return {name: one for name, one in found if name[0] != "_" and name not in NOT_OPERATIONS}


def test_every_operation_has_a_method_of_the_client_with_the_same_types():
    said = {
        name: (asked, answer)
        for one in methods().values()
        for name, asked, answer in [asked_by(one, get_type_hints(one))]
    }
    missing_files = table()["blob.missing"]  # `upload` asks it
    expected = {name: (one.input, one.output) for name, one in table().items()}
    said["blob.missing"] = (missing_files.input, missing_files.output)
    assert said == expected


def test_help_and_tracebacks_call_a_method_by_its_name():
    for name, one in methods().items():
        assert (one.__name__, one.__qualname__) == (name, f"Client.{name}")


def test_a_file_is_applied_only_over_the_revision_that_it_was_compared_with(api):
    ask, file = api.serving.control.ask, service_file("loans")
    now = ask("service.apply", ApplyService(file=file), by=OWNER).revision
    ask("service.apply", ApplyService(file=f"{file}\n# one more\n", over=now), by=OWNER)
    with pytest.raises(RefusedError, match=f"revision {now + 1} is in effect") as caught:
        ask("service.apply", ApplyService(file=f"{file}\n# another\n", over=now), by=OWNER)
    assert caught.value.code == "revision-moved"
    later = ask("service.apply", ApplyService(file=f"{file}\n# another\n"), by=OWNER)
    assert later.revision == now + 2


def test_the_document_is_valid_openapi_3_1(api):
    document = api.client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_operation_is_in_the_document_and_every_path_answers(api):
    document = api.client.get("/api/v1/openapi.json").json()
    named = {path: entry["post"]["operationId"] for path, entry in document["paths"].items()}
    assert sorted(named.values()) == sorted(table())
    for path in named:
        assert api.client.post(path, headers=api.signed, content="{").status_code == 422


def test_the_document_refuses_what_the_server_refuses():
    schemas = openapi(table().values(), "0")["components"]["schemas"]
    for one in table().values():
        assert schemas[one.input.__name__]["additionalProperties"] is False


def test_the_published_document_is_the_one_that_is_served(api):
    """After a change: `make docs`."""
    served = api.client.get("/api/v1/openapi.json").json()
    assert served == json.loads(PUBLISHED.read_text())
