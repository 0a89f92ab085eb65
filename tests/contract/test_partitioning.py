"""Making and destroying instances and switching MIG mode, by every driver."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin.core.health.events import DriverEvent, EventKind
from plugin.core.inventory.geometry import Client, ClientKind, ComputeInstance
from plugin.core.inventory.model import GpuInstance, MigMode, Placement
from plugin.errors import (
    DeviceInUse,
    DriverError,
    DriverStale,
    DriverUnavailable,
    GpuLost,
    InsufficientResources,
    InvalidPlacement,
    NoPermission,
    NoSuchInstance,
    NotSupported,
    ResetNeeded,
)
from plugin.sim.hardware.cards import catalog
from plugin.sim.hardware.files import CONFIG_NODE
from plugin.sim.hardware.gpu import Work
from tests.native import build
from tests.simulated import opened, truth

from .machines import Machine, native, simulated

AMPERE = "2xa100-40gb:0=on;1=off"
#: Cards that differ in slices, in names, or in how they switch MIG mode. There are two of each: the
#: first with MIG on and empty, the second with MIG off.
CARDS = ("a100-40gb", "a30-24gb", "h100-80gb", "gb200-186gb", "rtx-pro-6000-96gb")
MIG_CARDS = [key for key, card in catalog().cards.items() if card.mig_capable]


@pytest.fixture(params=[*CARDS, "native"])
def machine(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    if request.param == "native":
        monkeypatch.setenv(build.NODE_VARIABLE, str(tmp_path / "node.txt"))
        library = request.getfixturevalue("native_library")
        with native(AMPERE, tmp_path, library) as found:
            yield found
    else:
        with simulated(f"2x{request.param}:0=on;1=off") as found:
            yield found


def uuid(machine: Machine, gpu: int = 0) -> str:
    return machine.node.gpu(gpu).uuid


def device(machine: Machine, gpu: int = 0) -> ComputeInstance:
    """A new device of the smallest profile."""
    offer = machine.driver.profiles(uuid(machine, gpu))[-1]
    gpu_uuid = uuid(machine, gpu)
    made = machine.driver.create_gpu_instance(gpu_uuid, offer.profile_id, offer.placements[0])
    return machine.driver.create_compute_instance(gpu_uuid, made.id, offer.slices)


@pytest.mark.parametrize("card", MIG_CARDS)
def test_every_card_offers_what_it_has(card: str) -> None:
    with simulated(f"2x{card}:0=on;1=off") as machine:
        assert_offers(machine, 0)
        assert_offers(machine, 1)


def test_the_offers_are_the_same_with_mig_on_and_off(machine: Machine) -> None:
    assert_offers(machine, 0)
    assert_offers(machine, 1)


def assert_offers(machine: Machine, gpu: int) -> None:
    card = machine.node.gpu(gpu).card
    offers = machine.driver.profiles(uuid(machine, gpu))
    assert [offer.profile_id for offer in offers] == sorted(each.id for each in card.profiles)
    for offer in offers:
        known = card.profile(offer.name)
        assert (offer.slices, offer.memory_mib) == (known.slices, known.memory_mib)
        assert (offer.placements, offer.max_instances) == (known.placements, known.max_instances)
        assert tuple(size for size, _ in offer.compute_profiles) == known.compute_slices
        room = machine.driver.remaining(uuid(machine, gpu), offer.profile_id)
        assert room == machine.node.gpu(gpu).remaining(known) == offer.max_instances


def test_every_instance_can_be_made_at_every_place_and_destroyed(machine: Machine) -> None:
    driver, gpu = machine.driver, uuid(machine)
    before = driver.scan()
    for offer in driver.profiles(gpu):
        for at in offer.placements:
            made = driver.create_gpu_instance(gpu, offer.profile_id, at)
            assert made == GpuInstance(made.id, offer.name, at)
            empty = driver.scan().gpus[0]
            assert (empty.instances, empty.mig_devices) == ((made,), ())
            ci = driver.create_compute_instance(gpu, made.id, offer.slices)
            scan = driver.scan()
            (found,) = scan.gpus[0].mig_devices
            assert scan.gpus == truth(machine.node)
            assert (found.uuid, found.gi, found.ci) == (ci.uuid, made.id, ci.id)
            assert (found.profile, found.placement) == (offer.name, at)
            assert (found.ci_slices, found.missing_device_nodes) == (ci.slices, ())
            driver.destroy_compute_instance(gpu, made.id, ci.id)
            driver.destroy_gpu_instance(gpu, made.id)
            assert driver.scan() == before


def test_compute_instances_of_every_size_lie_beside_each_other(machine: Machine) -> None:
    driver, gpu = machine.driver, uuid(machine)
    for offer in driver.profiles(gpu):
        made = driver.create_gpu_instance(gpu, offer.profile_id, offer.placements[0])
        for size, _ in offer.compute_profiles:
            places = [Placement(start, size) for start in range(0, offer.slices - size + 1, size)]
            # In this order, so that each place must have been asked for.
            parts = [
                driver.create_compute_instance(gpu, made.id, size, at) for at in reversed(places)
            ]
            scan = driver.scan()
            assert scan.gpus == truth(machine.node)
            assert {d.uuid for d in scan.gpus[0].mig_devices} == {part.uuid for part in parts}
            with pytest.raises(InsufficientResources):
                driver.create_compute_instance(gpu, made.id, size)
            with pytest.raises(InsufficientResources):
                driver.create_compute_instance(gpu, made.id, size, places[0])
            for part in parts:
                driver.destroy_compute_instance(gpu, made.id, part.id)
        with pytest.raises(InvalidPlacement):
            driver.create_compute_instance(gpu, made.id, 1, Placement(offer.slices, 1))
        for size in {*range(9)} - {size for size, _ in offer.compute_profiles}:
            with pytest.raises(NotSupported, match="has none of that size"):
                driver.create_compute_instance(gpu, made.id, size)
        driver.destroy_gpu_instance(gpu, made.id)


def test_refusals_name_their_reason_and_change_nothing(machine: Machine) -> None:
    driver, gpu, off = machine.driver, uuid(machine), uuid(machine, 1)
    one = device(machine)
    offer = driver.profiles(gpu)[-1]
    first, profile = offer.placements[0], offer.profile_id
    whole = driver.profiles(gpu)[0]
    held = one.uuid or ""
    machine.node.use(held, 4711)
    machine.changed()
    before = driver.scan()
    refusals: list[tuple[type[DriverError], Callable[[], object]]] = [
        (InsufficientResources, lambda: driver.create_gpu_instance(gpu, profile, first)),
        (
            InsufficientResources,
            lambda: driver.create_gpu_instance(gpu, whole.profile_id, whole.placements[0]),
        ),
        (InvalidPlacement, lambda: driver.create_gpu_instance(gpu, profile, Placement(63, 1))),
        (NotSupported, lambda: driver.create_gpu_instance(gpu, 999, first)),
        (NotSupported, lambda: driver.create_gpu_instance(off, profile, first)),
        (NotSupported, lambda: driver.remaining(gpu, 999)),
        (InsufficientResources, lambda: driver.create_compute_instance(gpu, one.gi, one.slices)),
        (NoSuchInstance, lambda: driver.create_compute_instance(gpu, 6, 1)),
        (DeviceInUse, lambda: driver.destroy_gpu_instance(gpu, one.gi)),
        (DeviceInUse, lambda: driver.destroy_compute_instance(gpu, one.gi, one.id)),
        (NoSuchInstance, lambda: driver.destroy_compute_instance(gpu, one.gi, 5)),
        (NoSuchInstance, lambda: driver.destroy_gpu_instance(gpu, 6)),
        (GpuLost, lambda: driver.destroy_gpu_instance("GPU-0", 0)),
        (NoSuchInstance, lambda: driver.processes("MIG-0")),
    ]
    for number, (kind, verb) in enumerate(refusals):
        with pytest.raises(kind) as refused:
            verb()
        assert type(refused.value) is kind, number
        assert driver.scan() == before, number
    assert driver.scan().gpus == truth(machine.node)
    machine.node.release(held)
    machine.changed()
    driver.destroy_compute_instance(gpu, one.gi, one.id)
    driver.destroy_gpu_instance(gpu, one.gi)


def test_mig_mode_switches_at_once_or_with_a_reset(machine: Machine) -> None:
    driver, gpu, node = machine.driver, uuid(machine, 1), machine.node
    at = driver.profiles(gpu)[-1].placements[0]
    profile = driver.profiles(gpu)[-1].profile_id
    assert driver.set_mig_mode(gpu, on=False) == MigMode(current=False, pending=False)
    needs_reset = node.gpu(1).card.mig_mode_needs_reset
    expected = MigMode(current=not needs_reset, pending=True)
    assert driver.set_mig_mode(gpu, on=True) == expected
    assert driver.scan().gpus[1].mig == expected
    if needs_reset:
        with pytest.raises(ResetNeeded, match="a switch of MIG mode on is pending; reset the GPU"):
            driver.create_gpu_instance(gpu, profile, at)
        node.reset(1)
        machine.changed()
    assert driver.create_gpu_instance(gpu, profile, at).placement == at
    assert driver.scan().gpus == truth(node)


def test_what_a_reset_may_change_is_read_again() -> None:
    with simulated("2xh100-80gb") as machine:
        driver, counts = machine.driver, machine.node.calls.counts
        for expected in (2, 0):
            counts.clear()
            driver.scan()
            assert counts["nvmlDeviceGetMinorNumber"] == expected
        driver.set_mig_mode(uuid(machine, 1), on=True)
        driver.scan()
        assert counts["nvmlDeviceGetMinorNumber"] == 1


def test_a_switch_that_is_pending_can_be_given_up(machine: Machine) -> None:
    driver, gpu = machine.driver, uuid(machine, 1)
    for on in (True, False):
        driver.set_mig_mode(gpu, on=on)
    assert driver.scan().gpus[1].mig == MigMode(current=False, pending=False)


@pytest.mark.parametrize("work", list(Work))
def test_mig_mode_is_not_switched_under_anyones_feet(machine: Machine, work: Work) -> None:
    driver, gpu, node = machine.driver, uuid(machine, 1), machine.node
    node.use(gpu, 4711, work=work)
    machine.changed()
    with pytest.raises(DeviceInUse) as refused:
        driver.set_mig_mode(gpu, on=True)
    mode = driver.scan().gpus[1].mig
    assert mode == MigMode(current=False, pending=node.gpu(1).card.mig_mode_needs_reset)
    assert mode.pending is ("the switch is pending" in str(refused.value))
    node.release(gpu)
    machine.changed()


def test_processes_are_named_by_what_they_hold(machine: Machine) -> None:
    driver, gpu, node = machine.driver, uuid(machine), machine.node
    one = device(machine)
    assert driver.processes(gpu) == driver.processes(one.uuid or "") == ()
    node.use(one.uuid or "", 30)
    node.use(gpu, 20, work=Work.GRAPHICS)
    node.use(gpu, 10, work=Work.MPS)
    node.use(gpu, 5, work=Work.WATCH)
    machine.changed()
    on_device = Client(30, ClientKind.COMPUTE, one.gi, one.id)
    assert driver.processes(one.uuid or "") == (on_device,)
    whole = (Client(10, ClientKind.MPS), Client(20, ClientKind.GRAPHICS), on_device)
    assert driver.processes(gpu) == whole


def test_many_processes_are_all_listed() -> None:
    with simulated("1xh100-80gb") as machine:
        for pid in range(1, 200):
            machine.node.use(uuid(machine), pid)
        listed = machine.driver.processes(uuid(machine))
        assert [client.pid for client in listed] == list(range(1, 200))


def test_each_change_is_an_event(machine: Machine) -> None:
    driver, gpu = machine.driver, uuid(machine)
    source = driver.watch([gpu])
    one = device(machine)
    driver.destroy_compute_instance(gpu, one.gi, one.id)
    driver.destroy_gpu_instance(gpu, one.gi)
    assert [source.wait(1.0) for _ in range(4)] == [DriverEvent(EventKind.MIG_CONFIG, gpu)] * 4
    source.close()


def test_a_card_without_mig_offers_nothing() -> None:
    with simulated("1xt4-16gb") as machine:
        driver, gpu = machine.driver, uuid(machine)
        assert not driver.profiles(gpu)
        assert not driver.processes(gpu)
        refused: tuple[Callable[[], object], ...] = (
            lambda: driver.remaining(gpu, 19),
            lambda: driver.create_gpu_instance(gpu, 19, Placement(0, 1)),
            lambda: driver.destroy_gpu_instance(gpu, 7),
            lambda: driver.set_mig_mode(gpu, on=True),
        )
        for verb in refused:
            with pytest.raises(NotSupported):
                verb()


def test_a_look_is_what_a_scan_reads(machine: Machine) -> None:
    driver, gpu = machine.driver, uuid(machine)
    offer = driver.profiles(gpu)[-1]
    assert [driver.look(each.uuid) for each in driver.scan().gpus] == list(driver.scan().gpus)
    made = driver.create_gpu_instance(gpu, offer.profile_id, offer.placements[0])
    assert driver.look(gpu).instances == (made,)
    driver.create_compute_instance(gpu, made.id, offer.slices)
    (device,) = driver.look(gpu).mig_devices
    assert driver.look(gpu) == driver.scan().gpus[0]
    driver.destroy_compute_instance(gpu, device.gi, device.ci)
    driver.destroy_gpu_instance(gpu, device.gi)
    assert driver.look(gpu).instances == ()


def test_a_look_at_what_cannot_be_read(machine: Machine) -> None:
    driver, gpu = machine.driver, uuid(machine)
    driver.scan()
    with pytest.raises(DriverStale, match="GPU-none is not where the last scan saw it"):
        driver.look("GPU-none")
    driver.close()
    with pytest.raises(DriverUnavailable, match=r"^the driver is not open$"):
        driver.look(gpu)
    driver.open()


def test_a_look_at_a_lost_gpu() -> None:
    with simulated("1xh100-80gb:0=on") as machine:
        machine.driver.scan()
        machine.node.lose(0)
        with pytest.raises(GpuLost):
            machine.driver.look(uuid(machine))
        machine.node.restore(0)
        assert machine.driver.look(uuid(machine)).error is None


VERBS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "profiles": ((), {}),
    "remaining": ((19,), {}),
    "processes": ((), {}),
    "create_gpu_instance": ((19, Placement(1, 1)), {}),
    "create_compute_instance": ((9, 1), {}),
    "destroy_compute_instance": ((7, 0), {}),
    "destroy_gpu_instance": ((9,), {}),
    "set_mig_mode": ((), {"on": False}),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_driver_refuses(machine: Machine, verb: str) -> None:
    arguments, keywords = VERBS[verb]
    machine.driver.close()
    with pytest.raises(DriverUnavailable, match=r"^the driver is not open$"):
        getattr(machine.driver, verb)(uuid(machine), *arguments, **keywords)
    machine.driver.open()


@pytest.mark.parametrize("verb", VERBS)
def test_a_lost_gpu_is_said_to_be_lost(machine: Machine, verb: str) -> None:
    arguments, keywords = VERBS[verb]
    machine.node.lose(0)
    machine.changed()
    with pytest.raises(GpuLost) as lost:
        getattr(machine.driver, verb)(uuid(machine), *arguments, **keywords)
    assert lost.value.gpu_lost
    machine.node.restore(0)
    machine.changed()


def test_partitioning_takes_the_right_to_configure() -> None:
    with simulated("1xh100-80gb:0=1g.10gb*2") as machine:
        machine.node.create_gi(0, "1g.10gb", Placement(2, 1))
        driver, gpu, before = machine.driver, uuid(machine), truth(machine.node)
        machine.node.faults.remove_node(CONFIG_NODE)
        for verb, (arguments, keywords) in VERBS.items():
            if verb in {"profiles", "remaining", "processes"}:
                getattr(driver, verb)(gpu, *arguments, **keywords)
                continue
            numbers = arguments if verb != "create_gpu_instance" else (19, Placement(3, 1))
            with pytest.raises(NoPermission, match="NVIDIA_MIG_CONFIG_DEVICES=all"):
                getattr(driver, verb)(gpu, *numbers, **keywords)
        assert driver.scan().gpus == before


def test_a_driver_too_old_says_so() -> None:
    missing = "nvmlDeviceCreateGpuInstanceWithPlacement"
    with (
        simulated("1xh100-80gb:0=on") as machine,
        opened(machine.node, [missing]) as old,
        pytest.raises(NotSupported, match="Function Not Found"),
    ):
        old.create_gpu_instance(uuid(machine), 19, Placement(0, 1))


def test_processes_of_older_drivers() -> None:
    kinds = ("Compute", "Graphics", "MPSCompute")
    lacking = [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in kinds]
    # Before MIG could be shared by MPS.
    lacking.append("nvmlDeviceGetMPSComputeRunningProcesses_v2")
    with simulated("1xh100-80gb") as machine, opened(machine.node, lacking) as old:
        machine.node.use(uuid(machine), 7)
        machine.node.use(uuid(machine), 8, work=Work.GRAPHICS)
        assert old.processes(uuid(machine)) == (
            Client(7, ClientKind.COMPUTE),
            Client(8, ClientKind.GRAPHICS),
        )


@pytest.mark.parametrize("verb", VERBS)
def test_a_gpu_that_came_makes_the_driver_stale(verb: str) -> None:
    arguments, keywords = VERBS[verb]
    with simulated("1xh100-80gb:0=on") as machine:
        card = machine.node.gpu(0).card
        machine.node.add_gpu(card)
        before = machine.node.gpus
        for gpu in machine.node.gpus:
            with pytest.raises(DriverStale, match="NVML must be initialised again"):
                getattr(machine.driver, verb)(gpu.uuid, *arguments, **keywords)
        assert machine.node.gpus == before
        machine.driver.open()
        assert machine.driver.profiles(uuid(machine, 1))


@pytest.mark.parametrize("seed", range(2))
def test_any_sequence_of_changes_is_what_the_hardware_does(machine: Machine, seed: int) -> None:
    """Verbs at random, most of which are refused: every scan shows what the hardware has."""
    rng = random.Random(seed)  # noqa: S311 — nothing secret
    driver, gpu = machine.driver, uuid(machine)
    offers = driver.profiles(gpu)
    done = 0

    def create_gpu_instance() -> None:
        offer = rng.choice(offers)
        driver.create_gpu_instance(gpu, offer.profile_id, rng.choice(offer.placements))

    def gi() -> int:
        return rng.choice([instance.id for instance in machine.node.gpu(0).instances] or [0])

    verbs: list[Callable[[], object]] = [
        create_gpu_instance,
        lambda: driver.create_compute_instance(gpu, gi(), rng.choice((1, 2, 3))),
        lambda: driver.destroy_compute_instance(gpu, gi(), rng.choice((0, 1))),
        lambda: driver.destroy_gpu_instance(gpu, gi()),
    ]
    for _ in range(60):
        before = truth(machine.node)
        try:
            rng.choice(verbs)()
            done += 1
        except DriverError:
            assert truth(machine.node) == before
        scan = driver.scan()
        assert scan.gpus == truth(machine.node)
        assert not scan.warnings()
    assert done > 4
