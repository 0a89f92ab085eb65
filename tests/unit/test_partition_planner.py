"""The planner against brute force: there is a plan exactly if it finds one, it keeps the most, it
touches nothing in use, and the simulated hardware carries it out.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.inventory.model import Placement
from plugin.core.partition.configuration import Wanted
from plugin.core.partition.planner import devices_of, plan_gpu
from plugin.core.partition.steps import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Occupant,
    Outcome,
    Plan,
    Refusal,
    RefusalCode,
    Step,
)
from plugin.sim.hardware.cards import Card, catalog
from plugin.sim.hardware.engine import SimNode
from tests.partitioning import carry_out, fill, inventory, offers

from .partition_oracle import Oracle, State, contents, devices, frames, states

A30, A100 = catalog().cards["a30-24gb"], catalog().cards["a100-40gb"]
POD = (Occupant("default/one", pod=True),)

#: Of (GPU instance's placement, first compute slice).
Used = frozenset[tuple[Placement, int]]


def in_use_subsets(state: State) -> Iterator[Used]:
    places = [(at, start) for _, at, compute in state for start, _ in compute]
    for count in range(len(places) + 1):
        yield from map(frozenset, itertools.combinations(places, count))


def build(card: Card, state: State) -> tuple[SimNode, dict[tuple[Placement, int], str]]:
    """A node in this state, and the UUIDs of its devices by place."""
    node = SimNode([card])
    node.configure("all-enabled")
    uuids = {}
    for name, at, compute in state:
        gi = node.create_gi(0, name, at).id
        for (start, _), uuid in zip(sorted(compute), fill(node, 0, gi, compute), strict=True):
            uuids[at, start] = uuid
    return node, uuids


def kind(outcome: Outcome) -> str:
    assert isinstance(outcome, Plan | Refusal)
    return "plan" if isinstance(outcome, Plan) else outcome.code


def check(oracle: Oracle, state: State, used: Used, wanted: Counter[str]) -> Outcome:
    """One case, in all respects; what the planner makes of it."""
    card = oracle.card
    node, uuids = build(card, state)
    gpu = inventory(node).gpus[0]
    for number, place in enumerate(used):
        node.use(uuids[place], 100 + number)
    in_use = {uuids[place]: POD for place in used}
    outcome = plan_gpu(gpu, offers(card), Wanted.of(wanted), in_use)
    best = oracle.best(state, used, wanted)
    if best is None:
        assert isinstance(outcome, Refusal), (state, used, wanted)
        places = {uuids[place]: place for place in used}
        _check_refusal(oracle, state, outcome, places, wanted)
        return outcome
    assert isinstance(outcome, Plan), (state, used, wanted, outcome)
    assert len(outcome.kept) == best.kept, (state, used, wanted, outcome)
    assert sum(seat.gi is not None for seat in outcome.seats) == best.instances
    _check_steps(outcome, in_use)
    carry_out(node, 0, outcome)
    after = inventory(node).gpus[0]
    assert devices_of(after) == wanted
    assert not after.empty_instances()
    assert set(outcome.kept) == {d.uuid for d in after.mig_devices} & set(uuids.values())
    assert set(outcome.leaving) == set(uuids.values()) - set(outcome.kept)
    again = plan_gpu(after, offers(card), Wanted.of(wanted), {})
    assert isinstance(again, Plan)
    assert not again.steps
    return outcome


def _check_refusal(
    oracle: Oracle,
    state: State,
    refusal: Refusal,
    used: dict[str, tuple[Placement, int]],
    wanted: Counter[str],
) -> None:
    if refusal.code is RefusalCode.IN_USE:
        blocking = {used[each.uuid] for each in refusal.blockers}
        everyone = frozenset(used.values())
        assert oracle.best(state, everyone - blocking, wanted) is not None
        for fewer in itertools.combinations(everyone, len(blocking) - 1):
            assert oracle.best(state, everyone - set(fewer), wanted) is None
        assert refusal.after is not None
        assert {each.uuid for each in refusal.blockers} == set(refusal.after.leaving) & set(used)
    else:
        assert refusal.code is RefusalCode.IMPOSSIBLE
        assert oracle.best(state, frozenset(), wanted) is None
        assert not refusal.blockers


def _check_steps(plan: Plan, in_use: Collection[str]) -> None:
    assert list(plan.steps) == sorted(plan.steps, key=_creates), "destroy before create"
    destroyed = [step.uuid for step in plan.steps if isinstance(step, DestroyComputeInstance)]
    assert not set(destroyed) & (set(in_use) | set(plan.kept))
    staying = {seat.gi for seat in plan.seats}
    for step in plan.steps:
        assert not isinstance(step, DestroyGpuInstance) or step.gi not in staying


def _creates(step: Step) -> bool:
    return isinstance(step, CreateGpuInstance | CreateComputeInstance)


def wanted_sets(card: Card, chance: random.Random) -> Iterator[Counter[str]]:
    """Possible ones, those that nearly are, and the empty one."""
    choices = list(frames(card.key, card))
    names = [profile.device_name(n) for profile in card.profiles for n in profile.compute_slices]
    while True:
        frame = chance.choice(choices)
        wanted: Counter[str] = Counter()
        for name, _ in frame:
            profile = card.profile(name)
            size = chance.choice([profile.slices, *profile.compute_slices])
            wanted[profile.device_name(size)] += chance.randint(1, profile.slices // size)
        if chance.random() < 0.2:
            wanted[chance.choice(names)] += 1
        yield wanted


@pytest.mark.parametrize("part", range(4))
def test_every_state_of_an_a30_with_every_subset_in_use(part: int) -> None:
    oracle, chance = Oracle(A30), random.Random(part)  # noqa: S311 — not secret
    wanted = wanted_sets(A30, chance)
    seen: Counter[str] = Counter()
    for state in itertools.islice(states(A30), part, None, 4):
        for used in in_use_subsets(state):
            outcome = check(oracle, state, used, next(wanted))
            seen[kind(outcome)] += 1
    assert min(seen[each] for each in ("plan", "in-use", "impossible")) > 50


@pytest.mark.parametrize("part", range(4))
def test_a_sample_of_the_states_of_an_a100_with_any_subset_in_use(part: int) -> None:
    oracle, chance = Oracle(A100), random.Random(part)  # noqa: S311 — not secret
    wanted = wanted_sets(A100, chance)
    every = sample(A100, chance)
    seen: Counter[str] = Counter()
    for state in itertools.islice(every, 250):
        places = [(at, start) for _, at, compute in state for start, _ in compute]
        most = chance.choice([0, 1, 2, len(places)])
        used = frozenset(chance.sample(places, min(most, len(places))))
        aim = devices(A100, next(every)) if chance.random() < 0.3 else next(wanted)
        outcome = check(oracle, state, used, aim)
        seen[kind(outcome)] += 1
    assert min(seen[each] for each in ("plan", "in-use", "impossible")) > 10


def sample(card: Card, chance: random.Random) -> Iterator[State]:
    every = frames(card.key, card)
    while True:
        yield tuple(
            (name, at, chance.choice(contents(card.profile(name))))
            for name, at in chance.choice(every)
        )


#: The other cards have the shape of one of these.
OTHERS = [catalog().cards["h100-80gb"], catalog().cards["rtx-pro-6000-96gb"]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_other_cards(data: st.DataObject) -> None:
    card = data.draw(st.sampled_from(OTHERS))
    state: State = tuple(
        (name, at, data.draw(st.sampled_from(contents(card.profile(name)))))
        for name, at in data.draw(st.sampled_from(frames(card.key, card)))
    )
    places = [(at, start) for _, at, compute in state for start, _ in compute]
    used = data.draw(st.sets(st.sampled_from(places), max_size=2)) if places else set()
    other = data.draw(st.sampled_from(frames(card.key, card)))
    wanted = Counter(name for name, _ in other)
    check(oracle_of(card), state, frozenset(used), wanted)


@pytest.mark.parametrize("name", ["4g.20gb", "7g.40gb"])
def test_plans_work_wherever_a_compute_instance_lies_that_the_driver_does_not_place(
    name: str,
) -> None:
    # A GPU has one of these at most: what is wanted must fit beside what is in use.
    profile = A100.profile(name)
    alone = [places for places in contents(profile) if len(places) == 1]
    aims = {tuple(sorted(size for _, size in places)) for places in contents(profile)}
    plans = 0
    for places, sizes in itertools.product(alone, sorted(aims)):
        node, uuids = build(A100, ((name, profile.placements[0], places),))
        (used,) = uuids.values()
        node.use(used, 7)
        read = inventory(node).gpus[0]
        gpu = replace(read, mig_devices=(replace(read.mig_devices[0], ci_start=None),))
        wanted = Counter(map(profile.device_name, sizes))
        outcome = plan_gpu(gpu, offers(A100), Wanted.of(wanted), {used: POD})
        if isinstance(outcome, Plan):
            plans += 1
            carry_out(node, 0, outcome)
            assert devices_of(inventory(node).gpus[0]) == wanted
    assert plans > len(alone)


def test_the_order_of_the_offers_and_instances_makes_no_difference() -> None:
    chance = random.Random(0)  # noqa: S311 — not secret
    for state, wanted in itertools.islice(
        zip(sample(A100, chance), wanted_sets(A100, chance), strict=False), 50
    ):
        gpu = inventory(build(A100, state)[0]).gpus[0]
        turned = replace(gpu, instances=(gpu.instances or ())[::-1])
        one = plan_gpu(gpu, offers(A100), Wanted.of(wanted), {})
        other = plan_gpu(turned, offers(A100)[::-1], Wanted.of(wanted), {})
        assert one == other


@functools.cache
def oracle_of(card: Card) -> Oracle:
    return Oracle(card)
