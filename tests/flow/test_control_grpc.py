"""`doorstep up` with a gRPC port: announced, served, and taken over when `up` was killed."""

from __future__ import annotations

from pathlib import Path

import tritonclient.grpc as triton
from test_serve_grpc import matrix

from doorstep.testing.installation import RunningInstallation


def test_up_serves_grpc_where_it_says_and_takes_the_port_over(tmp_path: Path) -> None:
    with RunningInstallation(tmp_path / "home", environ={"DOORSTEP_GRPC_PORT": "0"}) as here:
        here.register("loans")
        here.serve("loans@1")
        assert here.ready is not None
        address = here.ready.grpc_url
        with triton.InferenceServerClient(address) as client:
            here.wait(lambda: client.is_model_ready("loans"), "ready over gRPC")
            rows = matrix(1)
            assert client.infer("loans", [rows]).get_response().model_version == "1"
            here.kill("control")
            assert client.infer("loans", [rows]).get_response().model_version == "1"
            assert here.restart().grpc_url == address
            assert client.infer("loans", [rows]).get_response().model_version == "1"
