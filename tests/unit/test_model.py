"""What an inventory says of itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugin.core.advertise.advertisement import advertise
from plugin.core.inventory.model import Device, Gpu
from plugin.core.settings import Settings

from .builders import gpu, mig_device, mig_gpu, node


@pytest.mark.parametrize(
    ("card", "free"),
    [
        pytest.param(mig_gpu(0, "1g.5gb", "2g.10gb"), (3, 4, 5, 6, 7), id="the rest"),
        pytest.param(gpu(0, mig=True), tuple(range(8)), id="no instance"),
        pytest.param(gpu(0, mig_device(0, 0, "7g.40gb")), (), id="full"),
        pytest.param(
            gpu(0, mig_device(0, 2, "3g.20gb", ci=0), mig_device(0, 2, "3g.20gb", ci=1)),
            (0, 1, 6, 7),
            id="two in one instance",
        ),
        pytest.param(gpu(0), None, id="MIG off"),
        pytest.param(gpu(0, mig_device(0, 0, placement=None)), None, id="not known"),
        pytest.param(gpu(0, mig_device(), memory_slices=0), None, id="slices not known"),
    ],
)
def test_free_slices(card: Gpu, free: tuple[int, ...] | None) -> None:
    assert card.free_slices() == free


def test_a_gpu_and_its_devices_answer_the_same_questions() -> None:
    card = mig_gpu(3, "1g.5gb", "1g.5gb")
    first, second = card.mig_devices
    assert card.gpu_uuid == first.gpu_uuid == card.uuid
    assert card.gpu_index == first.gpu_index == 3
    assert (card.parts, first.parts) == ((first, second), ())
    devices: list[Device] = [second, card, first]
    assert sorted(devices, key=lambda device: device.order) == [card, first, second]


def test_what_is_found_by_uuid_is_of_this_inventory() -> None:
    """A value made of another one must not keep that one's index."""
    before = node(mig_gpu(0, "1g.5gb"), gpu(1))
    first, second = before.gpus
    assert before.device(first.uuid) is first
    after = replace(before, gpus=(second,))
    assert (after.device(first.uuid), after.device(second.uuid)) == (None, second)
    assert before == replace(after, gpus=before.gpus)


def test_what_is_found_by_id_is_of_this_advertisement() -> None:
    before = advertise(node(mig_gpu(0, "1g.5gb")), Settings())
    ((resource, (listed,)),) = before.resources.items()
    uuid = listed.device.uuid
    assert before.index(resource) == {listed.id: listed}
    assert before.offer(uuid) is not None
    after = replace(before, resources={})
    assert (after.index(resource), after.offer(uuid)) == ({}, None)
