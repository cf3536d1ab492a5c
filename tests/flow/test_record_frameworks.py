"""`doorstep.Record` in applications as people have them: FastAPI on uvicorn, Flask on Werkzeug."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from flask import Flask, Response, jsonify, request
from pydantic import BaseModel
from werkzeug.serving import make_server

import doorstep
from doorstep.testing.processes import wait_for

ROWS = [{"amount": 100.0 + at, "purpose": "car"} for at in range(40)]


class Loan(BaseModel):
    amount: float
    purpose: str


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(loan: Loan) -> dict[str, Any]:
        if loan.amount == 666:
            raise HTTPException(503, "no model")
        return {"answer": "yes" if loan.amount < 120 else "no", "probability": loan.amount / 1000}

    @app.post("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse((f"part {at}\n" for at in range(3)), media_type="text/plain")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def flask_app() -> Flask:
    app = Flask("loans")

    @app.post("/predict")
    def predict() -> Response | tuple[Response, int]:
        loan = request.get_json()
        if not isinstance(loan.get("amount"), int | float):
            return jsonify(detail="amount is no number"), 422
        if loan["amount"] == 666:
            return jsonify(detail="no model"), 503
        answer = "yes" if loan["amount"] < 120 else "no"
        return jsonify(answer=answer, probability=loan["amount"] / 1000)

    @app.post("/stream")
    def stream() -> Response:
        return Response((f"part {at}\n" for at in range(3)), mimetype="text/plain")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


class Served:
    """An application on a port of its own, until `stop`."""

    def __init__(self, url: str, stop: Any) -> None:
        self.url, self.stop = url, stop


def serve_fastapi(app: Any) -> Served:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "uvicorn listens")

    def stop() -> None:
        server.should_exit = True
        thread.join()

    port = server.servers[0].sockets[0].getsockname()[1]
    return Served(f"http://127.0.0.1:{port}", stop)


def serve_flask(app: Any) -> Served:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join()

    return Served(f"http://127.0.0.1:{server.port}", stop)


@pytest.fixture(params=["fastapi", "flask"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The same application twice: as it is, and with the one line."""
    if request.param == "fastapi":
        watched: Any = fastapi_app()
        watched.add_middleware(doorstep.Record, service="loans", home=tmp_path)
        served = [serve_fastapi(fastapi_app()), serve_fastapi(watched)]
    else:
        watched = flask_app()
        watched.wsgi_app = doorstep.Record(watched.wsgi_app, service="loans", home=tmp_path)
        served = [serve_flask(flask_app()), serve_flask(watched)]
    try:
        yield served[0].url, served[1].url
    finally:
        for one in served:
            one.stop()


def spooled(home: Path) -> list[dict[str, Any]]:
    files = sorted((home / "watched" / "spool" / "loans").glob("*"))
    return [json.loads(line) for one in files for line in one.read_text().splitlines()]


def test_answers_are_the_same_and_each_prediction_is_recorded(
    both: tuple[str, str], tmp_path: Path
) -> None:
    asked: list[tuple[str, str, Any]] = [
        *(("POST", "/predict", row) for row in ROWS),
        ("POST", "/predict", {"amount": 666, "purpose": "car"}),
        ("POST", "/predict", {"amount": "much"}),
        ("POST", "/stream", {}),
        ("GET", "/health", None),
        ("POST", "/nowhere", {}),
    ]

    def said(url: str, method: str, path: str, body: Any) -> tuple[int, str, str]:
        found = httpx.request(method, url + path, json=body, timeout=60)
        return found.status_code, found.headers["content-type"], found.text

    plain, watched = both
    with ThreadPoolExecutor(8) as crowd:
        ours = list(crowd.map(lambda one: said(watched, *one), asked))
    theirs = [said(plain, *one) for one in asked]
    assert ours == theirs
    # A Werkzeug server may still be closing an answer whose caller has read it.
    wait_for(lambda: len([one for one in spooled(tmp_path) if "id" in one]) == 41, "41 rows")
    rows = [one for one in spooled(tmp_path) if "answer" in one]
    answered = {row["fields"]["amount"]: row["answer"] for row in rows}
    assert answered == {row["amount"]: "yes" if row["amount"] < 120 else "no" for row in ROWS}
    failed = [one for one in spooled(tmp_path) if "error" in one]
    assert [(one["error"], one["fields"]["amount"]) for one in failed] == [("status 503", 666)]
    assert len(rows) == len(ROWS)
