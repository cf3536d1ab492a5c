from __future__ import annotations

from pathlib import Path

import pytest

from doorstep.core.errors import InputError, UsageError
from doorstep.kernel.settings import Flags, Port, Ports, read_settings

HERE = Path("/work")


def test_without_flags_and_environment_there_are_defaults():
    settings = read_settings(Flags(home="/h"), {}, HERE)
    assert settings.ports == Ports()
    assert (settings.environment, settings.database_url, settings.url) == ("local", "", "")


def test_a_flag_wins_over_the_environment():
    environ = {
        "DOORSTEP_HOME": "/e",
        "DOORSTEP_DATABASE": "postgresql://e/x",
        "DOORSTEP_URL": "http://e",
        "DOORSTEP_ENVIRONMENT": "staging",
        "DOORSTEP_DATA_PORT": "9000",
    }
    found = read_settings(Flags(), environ, HERE)
    assert (found.home, found.environment, found.url) == (Path("/e"), "staging", "http://e")
    assert found.database_url == "postgresql://e/x"
    assert found.ports.data == Port(9000, named=True)
    flags = Flags(home="/f", database="d", url="https://f/", environment="prod", data_port=0)
    found = read_settings(flags, environ, HERE)
    assert (found.home, found.environment, found.url) == (Path("/f"), "prod", "https://f")
    assert (found.database_url, found.ports.data) == ("d", Port(0, named=True))


@pytest.mark.parametrize("name", ["data", "health", "grpc", "control"])
def test_every_port_can_be_named_and_only_a_named_one_is(name: str):
    environ = {f"DOORSTEP_{name.upper()}_PORT": "65535"}
    ports = read_settings(Flags(home="/h"), environ, HERE).ports
    assert getattr(ports, name) == Port(65535, named=True)
    assert [p.named for p in (ports.data, ports.health, ports.grpc, ports.control)].count(True) == 1


@pytest.mark.parametrize("text", ["65536", "-1", "x", "80.0", "٣", " 80", "9" * 5000])
def test_a_port_that_is_none_is_refused_by_the_name_of_its_source(text: str):
    with pytest.raises(UsageError, match="DOORSTEP_DATA_PORT"):
        read_settings(Flags(home="/h"), {"DOORSTEP_DATA_PORT": text}, HERE)


def test_a_flag_that_is_no_port_is_refused():
    with pytest.raises(UsageError, match="--grpc-port"):
        read_settings(Flags(home="/h", grpc_port=70000), {}, HERE)


def test_a_server_that_is_no_url_is_refused():
    with pytest.raises(UsageError, match="localhost:7070"):
        read_settings(Flags(home="/h", url="localhost:7070"), {}, HERE)


def test_an_environment_has_a_name():
    with pytest.raises(InputError):
        read_settings(Flags(home="/h", environment="Prod!"), {}, HERE)
