"""One whole installation for all flow tests that need no other; starting one costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doorstep.testing.installation import RunningInstallation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInstallation]:
    """Runs for the whole session: a test takes a service name of its own, and kills nothing."""
    with RunningInstallation(tmp_path_factory.mktemp("installation") / "home") as running:
        yield running
