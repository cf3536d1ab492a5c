"""Many small worlds: each seed a release with crashes, lost reports and a control plane that dies.

A failure prints its seed; `Simulation(World(seed=...)).run()` with the same world replays it.
"""

import msgspec
import pytest

from doorstep.release.types import State
from sim import simulator
from sim.simulator import Broken, Simulation, World

SEEDS = 32
ROUGH = {"node_crash": 0.04, "control_crash": 0.2, "report_lost": 0.5, "control_down_max_s": 30}


def run(**world):
    return Simulation(World(**world)).run()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_invariants_hold_when_both_versions_are_alike(seed):
    assert run(seed=seed).state is not State.SHADOW


@pytest.mark.parametrize("seed", range(SEEDS))
def test_invariants_hold_when_everything_fails_and_people_interfere(seed):
    run(seed=1000 + seed, people=0.05, **ROUGH)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_bad_challenger_never_becomes_champion(seed):
    trace = run(seed=2000 + seed, challenger_error_rate=0.25, **ROUGH)
    assert trace.state in (State.ROLLED_BACK, State.INCONCLUSIVE, State.SHADOW)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_bad_challenger_without_shadow_is_rolled_back_or_stops_by_itself(seed):
    spec = msgspec.structs.replace(simulator.QUICK, shadow_requests=0)
    trace = run(seed=3000 + seed, spec=spec, challenger_error_rate=0.4)
    assert trace.state in (State.ROLLED_BACK, State.INCONCLUSIVE)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_first_release_finishes_or_falls_back(seed):
    good = run(seed=4000 + seed, champion=None, seconds=60)
    bad = run(seed=4000 + seed, champion=None, seconds=60, challenger_error_rate=0.3)
    assert good.state in (State.DONE, State.BAKE)
    assert bad.state is State.ROLLED_BACK


def test_a_quiet_world_promotes_an_equal_challenger():
    calm = {"node_crash": 0.0, "control_crash": 0.0, "report_lost": 0.0, "requests_per_s": 50}
    states = [run(seed=seed, **calm).state for seed in range(6)]
    assert states.count(State.DONE) >= 5


def test_without_traffic_nothing_ever_moves():
    trace = run(seed=1, requests_per_s=0, node_crash=0.0)
    assert trace.state is State.INCONCLUSIVE
    assert trace.challenger_requests == 0


def test_the_same_seed_gives_the_same_trace_and_another_seed_another():
    one, again, other = (run(seed=seed, people=0.02, **ROUGH) for seed in (5, 5, 6))
    assert one == again
    assert one != other


def test_a_broken_invariant_names_its_seed():
    simulation = Simulation(World(seed=77))
    simulation._release = msgspec.structs.replace(simulation._release, state=State.DONE)
    with pytest.raises(Broken, match=r"the row is not the release \(seed 77, second 0\)"):
        simulation.run()
