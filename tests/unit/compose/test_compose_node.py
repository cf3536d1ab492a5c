"""The supervisor as a child of `up`."""

from __future__ import annotations

from pathlib import Path

from doorstep.compose.node import Node, NodePorts
from doorstep.kernel.home import open_home
from doorstep.serve.children import LOG_BYTES_MAX


def test_the_nodes_log_is_emptied_once_it_is_too_long(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home", create=True)
    node = Node(home, NodePorts(0, 0), 1)
    log = home.run / "node.log"
    node.revive()
    for size, left in ((LOG_BYTES_MAX, LOG_BYTES_MAX), (LOG_BYTES_MAX + 1, 0)):
        with log.open("wb") as file:
            file.truncate(size)
        node.revive()
        assert log.stat().st_size == left
