"""The database goes away while an installation serves: serving goes on, the rest comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from control_cases import assert_exactly_once, assert_no_request_failed, traffic

from doorstep.core.errors import DoorstepError
from doorstep.testing.installation import RunningInstallation
from fakes.load import Tally
from fakes.postgres import allow


@pytest.mark.postgres
def test_a_database_that_is_gone_for_a_while_stops_no_answer_and_breaks_no_ledger(
    postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    async def story(here: RunningInstallation) -> Tally:
        async with traffic(here, "loans") as load:
            await load.wait_answers(200)
            allow(postgres_server, postgres_url, allowed=False)
            try:
                await load.wait_answers(300)
                with pytest.raises(DoorstepError) as refused:
                    await asyncio.to_thread(here.client.service, "loans")
                assert "Traceback" not in str(refused.value)
                await load.wait_answers(300)
            finally:
                allow(postgres_server, postgres_url, allowed=True)
            await asyncio.to_thread(here.wait, lambda: knows(here), "the database to be back")
            await load.wait_answers(200)
            return await load.stop()

    with RunningInstallation(tmp_path / "home", database=postgres_url, workers=1) as here:
        here.register("loans")
        here.serve("loans@1")
        tally = asyncio.run(story(here))
        assert_no_request_failed(tally)
        assert_exactly_once(here, tally)
        here.register("loans", seed=2)
        assert here.serve("loans@2").challenger == 2
        assert here.client.verify_ledger().intact


def knows(here: RunningInstallation) -> bool:
    try:
        return here.client.service("loans").service == "loans"
    except DoorstepError:
        return False
