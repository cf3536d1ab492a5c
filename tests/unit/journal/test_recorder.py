"""`doorstep.Record` around real applications: nothing changes for them, whatever happens here."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import doorstep
from doorstep import recorder
from doorstep.core.errors import InputError
from doorstep.kernel.home import user_data_folder
from doorstep.recorder import rows_of

ROW = {"x": 1.5, "application": "a1"}
ANSWER = {"answer": "yes", "probability": 0.75, "model_version": "v9"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads its body in parts and answers in parts, as ASGI allows."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    if scope["path"] == "/raises":
        raise KeyError("model")
    answer = json.dumps(ANSWER).encode()
    kind = scope.get("kind", b"application/json")
    await send({"type": "http.response.start", "status": scope.get("status", 200),
                "headers": [(b"Content-Type", kind)]})  # fmt: skip
    await send({"type": "http.response.body", "body": answer[:9], "more_body": True})
    await send({"type": "http.response.body", "body": answer[9:]})


def ask(application: Any, body: bytes = json.dumps(ROW).encode(), **scope: Any) -> list[Any]:
    """The messages that a server gets."""
    parts = [{"type": "http.request", "body": body[:5], "more_body": True},
             {"type": "http.request", "body": body[5:]}]  # fmt: skip
    said: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    whole = {"type": "http", "method": "POST", "path": "/predict",
             "headers": [(b"content-type", b"application/json")], **scope}  # fmt: skip
    asyncio.run(application(whole, receive, send))
    return said


def record(home: Path, application: Any = app, **more: Any) -> Any:
    return doorstep.Record(application, service="loans", home=home, **more)


def lines(home: Path) -> list[dict[str, Any]]:
    folder = home / "watched" / "spool" / "loans"
    found = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]
    assert not list(folder.glob("*.open")), "what is flushed is given to its reader"
    return [one for one in found if "lost" not in one]


def test_a_request_passes_untouched_and_is_recorded(tmp_path: Path) -> None:
    watched = record(tmp_path)
    assert ask(watched) == ask(app)
    watched.flush()
    (one,) = lines(tmp_path)
    assert (one["fields"], one["answer"], one["scores"]) == (ROW, "yes", {"": 0.75})
    assert one["version"] == "v9" and one["latency_ms"] > 0 and len(one["id"]) == 32
    assert watched.counts == {"recorded": 1}


def test_records_go_to_the_home_that_commands_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left in a folder that no Doorstep reads would never be seen."""
    monkeypatch.delenv("DOORSTEP_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in (user_data_folder(os.environ, sys.platform), tmp_path / ".doorstep"):
        folder.mkdir(parents=True)
        recording = doorstep.Record(app, service="loans")
        ask(recording)
        recording.flush()
        assert len(lines(folder)) == 1
        assert f"{folder} is no home of Doorstep yet" in caplog.text


def test_servers_see_an_asgi_application_and_frameworks_their_own(tmp_path: Path) -> None:
    assert inspect.iscoroutinefunction(record(tmp_path).__call__)
    assert not inspect.iscoroutinefunction(record(tmp_path, wsgi_app).__call__)

    class Framework:
        state = "mine"

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

    assert record(tmp_path, Framework()).state == "mine"
    assert inspect.iscoroutinefunction(record(tmp_path, Framework()).__call__)


@pytest.mark.parametrize(
    "scope",
    [{"method": "GET"}, {"headers": []}, {"kind": b"text/event-stream"}, {"status": 404}],
    ids=["a get", "no json asked", "a stream of events", "a refusal"],
)
def test_what_is_no_prediction_is_left_alone(tmp_path: Path, scope: dict[str, Any]) -> None:
    watched = record(tmp_path)
    assert ask(watched, **scope) == ask(app, **scope)
    watched.flush()
    assert lines(tmp_path) == [] and watched.counts["recorded"] == 0


def test_another_path_and_the_lifespan_are_left_alone(tmp_path: Path) -> None:
    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        await send(scope["type"])

    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(record(tmp_path, lifespan)({"type": "lifespan"}, None, send))
    watched = record(tmp_path, path="/v1/")
    ask(watched)
    watched.flush()
    assert said == ["lifespan"] and lines(tmp_path) == []


def test_an_exception_is_the_applications_and_is_recorded_as_an_error(tmp_path: Path) -> None:
    watched = record(tmp_path)
    with pytest.raises(KeyError, match="model"):
        ask(watched, path="/raises")
    ask(watched, status=503)
    watched.flush()
    assert [one["error"] for one in lines(tmp_path)] == ["KeyError", "status 503"]


def test_a_huge_body_passes_and_is_left_out(tmp_path: Path) -> None:
    watched = record(tmp_path)
    body = json.dumps({"x": "y" * recorder.BODY_BYTES_MAX}).encode()
    assert ask(watched, body) == ask(app, body)
    watched.flush()
    assert watched.counts == {"too-large": 1}


def test_a_slow_disk_and_a_full_queue_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "QUEUED_MAX", 3)
    goes_on, began = threading.Event(), threading.Event()

    def slow(request: Any, response: Any) -> Any:
        began.set()
        goes_on.wait()
        return rows_of(request, response)

    watched = record(tmp_path, rows=slow)
    ask(watched)
    assert began.wait(30)
    for _ in range(10):
        assert ask(watched) == ask(app)
    assert watched.counts == {"queue-full": 7}
    goes_on.set()
    watched.flush(30)
    assert watched.counts["recorded"] == 4
    folder = tmp_path / "watched" / "spool" / "loans"
    told = [json.loads(line) for path in folder.iterdir() for line in path.open()]
    assert sum(one.get("lost", 0) for one in told) == 7, "the reader is told what is not there"


def test_no_failure_of_ours_reaches_the_application(tmp_path: Path) -> None:
    def broken(request: Any, response: Any) -> Any:
        raise RuntimeError("mine")

    (tmp_path / "file").write_text("not a folder")
    nowhere, cannot = record(tmp_path / "file"), record(tmp_path, rows=broken)
    for watched in (nowhere, cannot):
        assert ask(watched) == ask(app)
        watched.flush()
    assert nowhere.counts == {"failed: NotADirectoryError": 1}
    assert cannot.counts == {"failed: RuntimeError": 1}


def test_a_full_spool_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "SPOOL_BYTES_MAX", 100)
    watched = record(tmp_path)
    for _ in range(3):
        ask(watched)
        watched.flush()
    assert watched.counts == {"recorded": 1, "spool-full": 2}


# --- WSGI -----------------------------------------------------------------------------------------


def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    stream = environ["wsgi.input"]
    body = stream.read(5) + b"".join(stream)
    if environ["PATH_INFO"] == "/raises":
        raise KeyError("model")
    assert json.loads(body) == ROW
    start_response("200 OK", [("Content-Type", "application/json; charset=utf-8")])
    answer = json.dumps(ANSWER).encode()
    yield answer[:9]
    if environ["PATH_INFO"] == "/breaks":
        raise OSError("in the middle")
    yield answer[9:]


def ask_wsgi(application: Any, path: str = "/predict") -> list[bytes]:
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_TYPE": "application/json",
               "wsgi.input": io.BytesIO(json.dumps(ROW).encode())}  # fmt: skip
    answer = application(environ, lambda *_: None)
    try:
        return list(answer)
    finally:
        answer.close()


def test_a_wsgi_application_is_watched_as_well(tmp_path: Path) -> None:
    watched = record(tmp_path, wsgi_app)
    assert ask_wsgi(watched) == ask_wsgi(wsgi_app)
    for path, kind in (("/raises", KeyError), ("/breaks", OSError)):
        with pytest.raises(kind):
            ask_wsgi(watched, path)
    watched.flush()
    found = lines(tmp_path)
    assert [one.get("error") for one in found] == [None, "KeyError", "OSError"]
    assert (found[0]["fields"], found[0]["answer"]) == (ROW, "yes")


# --- processes ------------------------------------------------------------------------------------

SCRIPT = """
import os, sys
sys.path.insert(0, {here!r})
from test_recorder import ROW, ask_wsgi, record, wsgi_app
from pathlib import Path
watched = record(Path({home!r}), wsgi_app)
ask_wsgi(watched)
child = os.fork()
ask_wsgi(watched)
if child:
    os.waitpid(child, 0)
else:
    watched.flush()
    os._exit(0)
"""


def test_forked_workers_record_for_themselves_and_the_rest_is_written_at_exit(
    tmp_path: Path,
) -> None:
    script = SCRIPT.format(here=str(Path(__file__).parent), home=str(tmp_path))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=os.environ)
    found = lines(tmp_path)
    assert len(found) == 3 and len({one["id"] for one in found}) == 3


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "response", "expected"),
    [
        ({"rows": [{"x": 1}], "context": {"s": 2}}, {"version": 3, "predictions": [
            {"answer": "a", "probabilities": {"a": 0.9, "b": 0.1}}]},
         ({"s": 2, "x": 1}, "a", {"a": 0.9, "b": 0.1})),
        ({"instances": [{"x": 1}]}, {"predictions": [0.5]}, ({"x": 1}, 0.5, {})),
        ({"dataframe_split": {"columns": ["x"], "data": [[1]]}}, {"predictions": ["a"]},
         ({"x": 1}, "a", {})),
        ({"dataframe_records": [{"x": 1}]}, {"predictions": [1]}, ({"x": 1}, 1, {})),
        ([{"x": 1}], [{"label": "a", "score": 0.7}], ({"x": 1}, "a", {"": 0.7})),
        ({"x": 1}, {"prediction": 7.5}, ({"x": 1}, 7.5, {})),
    ],
    ids=["native", "tensorflow", "mlflow split", "mlflow records", "lists", "one object"],
)  # fmt: skip
def test_the_usual_shapes_are_known(request_: Any, response: Any, expected: Any) -> None:
    (one,) = rows_of(request_, response)
    assert (one["fields"], one["answer"], one.get("scores", {})) == expected


@pytest.mark.parametrize(
    ("request_", "response"),
    [(1, {}), ({"rows": [[1]]}, {"predictions": [1]}), ({"x": 1}, {"said": "no"}),
     ({"rows": [{"x": 1}, {"x": 2}]}, {"predictions": [1]})],
)  # fmt: skip
def test_another_shape_makes_no_rows(request_: Any, response: Any) -> None:
    with pytest.raises(ValueError, match=r"row|prediction"):
        rows_of(request_, response)


def test_a_home_that_cannot_be_looked_at_does_not_stop_the_application(tmp_path: Path) -> None:
    watched = doorstep.Record(app, service="loans", home=tmp_path / ("x" * 300))
    assert watched.app is app


NOWHERE = """
import os, sys
os.environ.pop("HOME", None)
os.chdir("/")
import pwd
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
import doorstep
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b"1"]
watched = doorstep.Record(app, service="loans")
asked = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_TYPE": "application/json"}
print(b"".join(watched({**asked, "wsgi.input": None}, lambda *_: None)), dict(watched.counts))
"""


def test_an_application_whose_user_has_no_folder_answers_and_a_warning_says_why() -> None:
    environ = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    run = [sys.executable, "-c", NOWHERE]
    done = subprocess.run(run, env=environ, timeout=300, capture_output=True, text=True)
    assert done.stdout == "b'1' {}\n"
    assert "nothing is recorded of loans: no-user-folder: HOME is not set" in done.stderr


def test_a_name_that_no_service_can_have_is_refused_where_the_code_says_it() -> None:
    with pytest.raises(InputError, match="bad-name"):
        doorstep.Record(lambda _environ, _start: [], service="My Service")
