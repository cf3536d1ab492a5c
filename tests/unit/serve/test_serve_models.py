"""More models than fit: what is used is loaded, the rest sleeps, and waking answers everybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from doorstep.core.contract import Contract, Field
from doorstep.core.errors import InputError
from doorstep.formats.batch import Batch
from doorstep.serve import models
from doorstep.serve.engines import ENGINE_MB, IDLE_S, EngineSlot
from doorstep.serve.engines import to_sleep as engines_to_sleep
from doorstep.serve.models import Model, Models, cost_bytes, to_sleep
from doorstep.serve.version import read_manifest
from doorstep.testing.home import MODEL_FILE, TestHome

CONTRACT = Contract(inputs=(Field(name="a", type="float"), Field(name="b", type="float")))


class Made:
    """A home with three services of one version each, and the models of a worker with room for
    `fitting` of them."""

    def __init__(self, folder: Path, fitting: int) -> None:
        self.home = TestHome(folder / "home")
        self.bundles = self.home.path / "bundles"
        digests = [self.home.bundle(CONTRACT, labels=(), seed=at) for at in range(3)]
        self.services = [
            self.home.service(f"s{at}", {1: digest}) for at, digest in enumerate(digests)
        ]
        self.manifests = {digest: read_manifest(self.bundles, digest) for digest in digests}
        cost = max(cost_bytes(one) for one in self.manifests.values())
        self.models = Models(asyncio.get_running_loop(), cost * fitting)
        for service in self.services:
            self.models.prepare(self.bundles, service, self.manifests)

    def get(self, at: int) -> Model:
        return self.models.get(self.services[at].versions[0])

    @property
    def awake(self) -> list[int]:
        return [at for at in range(3) if self.get(at).scorer is not None]

    async def wake(self, at: int) -> str:
        said: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.models.wake(self.get(at), said.set_result)
        return await said


def test_what_fits_is_loaded_and_the_longest_unused_sleeps_for_what_is_asked(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        made = Made(tmp_path, fitting=2)
        assert made.awake == [0, 1]
        made.get(0).used_ns = 5
        assert await made.wake(2) == ""
        assert made.awake == [0, 2]
        scorer = made.get(2).scorer
        assert scorer is not None
        assert scorer.score(Batch(np.zeros((1, 2)), [])).shape == (1, 1)

    asyncio.run(story())


def test_all_who_wait_are_answered_by_one_load(tmp_path: Path) -> None:
    async def story() -> None:
        made = Made(tmp_path, fitting=2)
        assert await asyncio.gather(*(made.wake(2) for _ in range(5))) == [""] * 5
        before = made.get(2).scorer
        assert await made.wake(0) == "" and made.get(2).scorer is before

    asyncio.run(story())


def test_a_model_that_cannot_be_loaded_says_so_to_whoever_waits(tmp_path: Path) -> None:
    async def story() -> None:
        made = Made(tmp_path, fitting=2)
        digest = made.services[2].versions[0].bundle
        (made.bundles / digest / MODEL_FILE).write_bytes(b"spoilt")
        said = await asyncio.gather(made.wake(2), made.wake(2))
        assert said[0] == said[1]
        assert "6 bytes" in said[0]
        assert made.get(2).scorer is None

    asyncio.run(story())


def test_whatever_loading_raises_the_next_request_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made = Made(tmp_path, fitting=2)

        def starved(*_: object) -> None:
            raise MemoryError("no room")

        with monkeypatch.context() as patched:
            patched.setattr(models, "load_inline", starved)
            assert await asyncio.gather(made.wake(2), made.wake(2)) == ["MemoryError: no room"] * 2
        assert await made.wake(2) == ""

    asyncio.run(story())


def test_what_cannot_fit_is_refused_with_the_sum(tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(InputError, match=r"needs .* MB for version 1 .*has 0\.0 MB") as found:
            Made(tmp_path, fitting=0)
        assert found.value.code == "memory-budget"
        assert "--memory" in found.value.hint

    asyncio.run(story())


def test_a_pinned_model_sleeps_last_and_one_always_stays(tmp_path: Path) -> None:
    async def story() -> None:
        made = Made(tmp_path, fitting=3)
        made.get(0).pinned = True
        made.get(1).used_ns, made.get(2).used_ns = 2, 1
        three = [made.get(at) for at in range(3)]
        cost = three[0].cost_bytes
        assert to_sleep(three, 3 * cost) == []
        assert to_sleep(three, 2 * cost) == [three[2]]
        assert to_sleep(three, cost) == [three[2], three[1]]
        assert to_sleep(three, 0) == [three[2], three[1]]

    asyncio.run(story())


class Process:
    starts = 1
    running = True


def slot(name: str, *, used_s: float, warm: bool = True, pinned: bool = False) -> EngineSlot:
    made = EngineSlot(Process(), Path(name), name, asleep=False)  # type: ignore[arg-type]
    made.began_s, made.used_s, made.warm, made.pinned = 0.0, used_s, warm, pinned
    return made


def test_engines_that_are_used_new_or_in_a_release_do_not_sleep_for_others() -> None:
    now_s = 1000.0
    old, older = slot("old", used_s=900.0), slot("older", used_s=800.0)
    used, new = slot("used", used_s=now_s - IDLE_S + 1), slot("new", used_s=0.0, warm=False)
    released = slot("released", used_s=0.0, pinned=True)
    slots = [old, older, used, new, released]
    assert engines_to_sleep(slots, 5 * ENGINE_MB, now_s) == []
    assert engines_to_sleep(slots, 4 * ENGINE_MB, now_s) == [older]
    assert engines_to_sleep(slots, 1 * ENGINE_MB, now_s) == [older, old]
