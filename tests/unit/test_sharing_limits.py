"""Sharing: several entries for one resource, and how many shares fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.config.file import parse_document
from plugin.core.advertise.advertisement import advertise
from plugin.core.advertise.listed import Listed
from plugin.core.advertise.sharing import LIST_BYTES, MOST_SHARES, share
from plugin.core.inventory.profiles import resource_name
from plugin.core.settings import Settings, SharedResource, Sharing
from plugin.errors import ConfigError
from plugin.kubelet.deviceplugin import wire
from tests.unit.builders import gpu, ids, listing, mig_device, mig_gpu, node

ONE = resource_name("1g.5gb")
SLOW = "nvidia.com/slow"
SEVEN = mig_gpu(0, *["1g.5gb"] * 7)
#: An id as long as real ones are.
LONG = "MIG-00000000-0000-0000-0000-{:012}"


def parsed(*entries: dict[str, Any]) -> Sharing:
    resources = [{"name": ONE, "replicas": 2, **entry} for entry in entries]
    values, _ = parse_document("x", {"sharing": {"timeSlicing": {"resources": resources}}})
    sharing = values["sharing"]
    assert isinstance(sharing, Sharing)
    return sharing


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"devices": ["0:0"]}, {"devices": ["0:1"], "replicas": 3}], {0: 2, 1: 3}),
        ([{"devices": 2}, {"devices": 2, "replicas": 3}], {0: 2, 1: 2, 2: 3, 3: 3}),
        ([{"devices": 2}, {"devices": ["0:0"], "replicas": 3}], {0: 3, 1: 2, 2: 2}),
        (
            [{"devices": ["0:0"], "replicas": 3}, {"devices": 9}],
            {0: 3} | dict.fromkeys(range(1, 7), 2),
        ),
    ],
)
def test_several_entries_share_one_resource(
    entries: list[dict[str, Any]], expected: dict[int, int]
) -> None:
    """Numbers of replicas by the device's index; the others stay as they are."""
    advertisement = advertise(node(SEVEN), Settings(sharing=parsed(*entries)))
    assert advertisement.problems == ()
    found = ids(advertisement.resources[ONE])
    assert len(set(found)) == len(found)
    for index, device in enumerate(SEVEN.mig_devices):
        replicas = [name for name in found if name.startswith(f"{device.uuid}::")]
        assert len(replicas) == expected.get(index, 0)
        assert (device.uuid in found) == (index not in expected)


def test_entries_of_one_resource_may_have_names_of_their_own() -> None:
    sharing = parsed({"devices": ["0:0"], "rename": SLOW}, {"devices": ["0:1"]})
    advertisement = advertise(node(SEVEN), Settings(sharing=sharing))
    assert {name: len(listed) for name, listed in advertisement.resources.items()} == {
        SLOW: 2,
        ONE: 7,
    }


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{}, {"devices": 2}], "resources[0] and [1] both share"),
        ([{"devices": 2}, {"rename": SLOW, "devices": "all"}], "one of them all of its devices"),
        ([{"devices": ["0:1"]}, {"devices": ["0:2", "0:1"]}], "both share device 0:1 of"),
    ],
)
def test_a_device_in_two_entries_is_refused(entries: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(*entries)
    assert said in str(refused.value)


def test_a_device_in_two_entries_by_index_and_uuid_is_the_first_one_s() -> None:
    uuid = SEVEN.mig_devices[1].uuid
    sharing = parsed({"devices": ["0:1"]}, {"devices": [uuid, "0:2"], "replicas": 3})
    advertisement = advertise(node(SEVEN), Settings(sharing=sharing))
    assert advertisement.problems == (
        f"sharing of {ONE}: another entry shares these already: {uuid}",
    )
    found = ids(advertisement.resources[ONE])
    assert f"{uuid}::1" in found
    assert f"{uuid}::2" not in found


@pytest.mark.parametrize("replicas", [0, MOST_SHARES + 1, True, "4", None])
def test_numbers_of_replicas_that_are_refused_name_the_limits(replicas: object) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to {MOST_SHARES}, .* at most 4 MiB"):
        parsed({"replicas": replicas})


def cards(count: int) -> tuple[Listed, ...]:
    return listing([mig_device(0, n, uuid=LONG.format(n), numa=300) for n in range(count)])


def list_bytes(listed: tuple[Listed, ...]) -> int:
    """The largest that the list can be: every device unhealthy."""
    devices = tuple((item.id, False, item.device.numa) for item in listed)
    return wire.list_response(devices).ByteSize()


@pytest.mark.parametrize(
    ("count", "replicas", "fitting"),
    [
        (1, 4, 4),
        (56, 1000, 1000),
        (56, 2000, 1_069),
        (1, MOST_SHARES, 59_073),
        (112, MOST_SHARES, 526),
    ],
)
def test_as_many_shares_are_listed_as_kubelet_takes(
    count: int, replicas: int, fitting: int
) -> None:
    shared = share({ONE: cards(count)}, Sharing((SharedResource(ONE, replicas),)))
    listed = shared.resources[ONE]
    assert len(listed) == count * fitting
    assert bool(shared.problems) == (fitting < replicas)
    assert list_bytes(listed) <= LIST_BYTES
    for problem in shared.problems:
        assert f"{replicas} replicas of each of {count} devices do not fit" in problem
        assert "65536 shares" in problem
        assert "4 MiB" in problem


def test_all_resources_together_have_a_limit() -> None:
    names = [f"nvidia.com/r{n}" for n in range(3)]
    listed = {name: (cards(n + 1)[n],) for n, name in enumerate(names)}
    shared = share(listed, Sharing(tuple(SharedResource(name, 50_000) for name in names)))
    assert [len(shared.resources[name]) for name in names] == [50_000, 15_536, 1]
    assert len(shared.problems) == 2


def test_what_is_listed_beside_the_shares_counts() -> None:
    sharing = Sharing((SharedResource(ONE, MOST_SHARES, devices=1),))
    shared = share({ONE: cards(2000)}, sharing)
    assert list_bytes(shared.resources[ONE]) <= LIST_BYTES
    assert len(shared.resources[ONE]) > 58_000


@given(
    st.lists(
        st.builds(
            SharedResource,
            st.just(ONE),
            st.integers(1, 5),
            st.sampled_from([None, SLOW]),
            st.integers(1, 9) | st.lists(st.sampled_from(["0:0", "0:1", "0:6", "9"])).map(tuple),
        ),
        max_size=4,
    )
)
def test_every_device_is_listed_and_shared_by_one_entry(entries: list[SharedResource]) -> None:
    advertisement = advertise(node(SEVEN, gpu(1)), Settings(sharing=Sharing(tuple(entries))))
    found: dict[str, set[str]] = {}
    for resource, listed in advertisement.resources.items():
        assert len(set(ids(listed))) == len(listed)
        for item in listed:
            found.setdefault(item.device.uuid, set()).add(resource)
    assert set(found) == {d.uuid for d in SEVEN.mig_devices} | {"GPU-1"}
    assert all(len(resources) == 1 for resources in found.values())
