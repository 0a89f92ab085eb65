"""Names by product and profile: what the file may say, and what is advertised then."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from plugin.config.file import parse_document
from plugin.core.advertise.advertisement import advertise
from plugin.core.advertise.naming import NamePattern, Naming, named
from plugin.core.inventory.profiles import resource_name
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing, SingleResource
from plugin.errors import ConfigError
from tests.unit.builders import gpu, ids, mig_device, mig_gpu, node

A100 = "NVIDIA A100-SXM4-40GB"
H100 = "NVIDIA H100 80GB HBM3"
ONE = resource_name("1g.5gb")
TWO = resource_name("2g.10gb")

SLICED = replace(mig_gpu(0, "1g.5gb", "2g.10gb"), product=A100)
#: A slice of the same name on another product, as two cards of equal memory have it.
OTHER = replace(gpu(1, mig_device(1, 0, "1g.5gb")), product=H100)
WHOLE = replace(gpu(2), product=H100)
NODE = node(SLICED, OTHER, WHOLE)


def parsed(**resources: Any) -> Naming:
    values, _ = parse_document("config file x", {"resources": resources})
    naming = values["naming"]
    assert isinstance(naming, Naming)
    return naming


def migs(*entries: dict[str, str]) -> Naming:
    return parsed(migs=list(entries))


def gpus(*entries: dict[str, str]) -> Naming:
    return parsed(gpus=list(entries))


@pytest.mark.parametrize(
    ("naming", "expected"),
    [
        pytest.param(Naming(), {ONE: 2, TWO: 1, "nvidia.com/gpu": 1}, id="none"),
        pytest.param(
            migs({"pattern": "1g.5gb", "product": "*A100*", "name": "a100-1g.5gb"}),
            {"nvidia.com/a100-1g.5gb": 1, ONE: 1, TWO: 1, "nvidia.com/gpu": 1},
            id="one product's profile",
        ),
        pytest.param(
            migs({"pattern": "1g.5gb", "name": "nvidia.com/small"}),
            {"nvidia.com/small": 2, TWO: 1, "nvidia.com/gpu": 1},
            id="a profile",
        ),
        pytest.param(
            migs(
                {"pattern": "2*", "name": "larger"},
                {"pattern": "*", "name": "slice"},
                {"pattern": "1g.5gb", "name": "too-late"},
            ),
            {"nvidia.com/larger": 1, "nvidia.com/slice": 2, "nvidia.com/gpu": 1},
            id="the first match counts",
        ),
        pytest.param(
            gpus({"pattern": "nvidia-h100-80gb-hbm?", "name": "h100"}),
            {ONE: 2, TWO: 1, "nvidia.com/h100": 1},
            id="a product as in labels, in any case",
        ),
        pytest.param(
            gpus({"pattern": H100, "name": "h100"}),
            {ONE: 2, TWO: 1, "nvidia.com/h100": 1},
            id="a product as the driver writes it",
        ),
        pytest.param(
            gpus({"pattern": "H100", "name": "h100"}),
            {ONE: 2, TWO: 1, "nvidia.com/gpu": 1},
            id="a pattern is the whole name",
        ),
        pytest.param(
            migs({"pattern": "[12]g.5gb", "name": "x"}),
            {ONE: 2, TWO: 1, "nvidia.com/gpu": 1},
            id="brackets mean nothing",
        ),
        pytest.param(
            gpus({"pattern": "*", "name": "gpu"}),
            {ONE: 2, TWO: 1, "nvidia.com/gpu": 1},
            id="as NVIDIA's file says by default",
        ),
    ],
)
def test_names_under_mixed(naming: Naming, expected: dict[str, int]) -> None:
    advertisement = advertise(NODE, Settings(naming=naming))
    assert {name: len(listed) for name, listed in advertisement.resources.items()} == expected


SLICES = migs({"pattern": "1g.5gb", "product": "*A100*", "name": "a100-1g.5gb"})
H100S = gpus({"pattern": "*H100*", "name": "h100"})


@pytest.mark.parametrize(
    ("settings", "inventory", "expected"),
    [
        (Settings(mig_strategy=MigStrategy.NONE, naming=H100S), node(WHOLE), {"nvidia.com/h100"}),
        (
            Settings(mig_strategy=MigStrategy.SINGLE, naming=SLICES),
            node(replace(mig_gpu(0, "1g.5gb"), product=A100), OTHER),
            {"nvidia.com/a100-1g.5gb", ONE},
        ),
        (
            Settings(
                mig_strategy=MigStrategy.SINGLE, single_resource=SingleResource.GPU, naming=SLICES
            ),
            node(replace(mig_gpu(0, "1g.5gb"), product=A100), OTHER),
            {"nvidia.com/a100-1g.5gb", "nvidia.com/gpu"},
        ),
        (Settings(mig_strategy=MigStrategy.SINGLE, naming=H100S), node(WHOLE), {"nvidia.com/h100"}),
    ],
)
def test_names_under_every_strategy(settings: Settings, inventory: Any, expected: set[str]) -> None:
    assert set(advertise(inventory, settings).resources) == expected


def test_two_profiles_under_one_name_stand_in_inventory_order() -> None:
    inventory = node(SLICED, mig_gpu(1, "2g.10gb", "1g.5gb"))
    resources = {
        TWO: [d for d in inventory.devices() if getattr(d, "profile", "") == "2g.10gb"],
        ONE: [d for d in inventory.devices() if getattr(d, "profile", "") == "1g.5gb"],
    }
    found = named(resources, Naming(migs=(NamePattern("*", "nvidia.com/slice"),)), inventory)
    (devices,) = found.values()
    assert [device.order for device in devices] == sorted(device.order for device in devices)


def test_what_is_shared_is_named_first() -> None:
    sharing = Sharing((SharedResource("nvidia.com/a100-1g.5gb", 3),))
    advertisement = advertise(NODE, Settings(naming=SLICES, sharing=sharing))
    assert ids(advertisement.resources["nvidia.com/a100-1g.5gb"]) == [
        f"MIG-0-7-0::{n}" for n in range(3)
    ]


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    naming = migs({"pattern": "*a" * 500 + "*!", "name": "x"})
    inventory = node(replace(mig_gpu(0, "1g.5gb"), product="a" * 96))
    named({ONE: list(inventory.gpus[0].mig_devices)}, naming, inventory)
    by_product = Naming(migs=(NamePattern("*", "nvidia.com/x", "*a" * 60 + "*!"),))
    assert set(advertise(inventory, Settings(naming=by_product)).resources) == {ONE}


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ([], "resources: [] is not valid; choose a mapping"),
        ({"migz": []}, "resources.migz is not known; did you mean mig"),
        ({"migs": {}}, None),
        ({"migs": "all"}, "resources.migs: 'all' is not valid; choose a list"),
        ({"migs": ["1g.5gb"]}, "resources.migs[0]: '1g.5gb' is not valid; choose a mapping"),
        ({"migs": [{"name": "a"}]}, "resources.migs[0].pattern: None is not valid; choose a text"),
        ({"migs": [{"pattern": "", "name": "a"}]}, "migs[0].pattern: '' is not valid"),
        ({"migs": [{"pattern": "*", "name": "a", "product": 1}]}, "migs[0].product: 1 is not"),
        ({"migs": [{"pattern": "*"}]}, "resources.migs[0].name: None is not valid; choose nvidia"),
        ({"migs": [{"pattern": "*", "name": "a b"}]}, "migs[0].name: 'a b' is not valid"),
        ({"migs": [{"pattern": "*", "name": "a.com/b"}]}, "migs[0].name: 'a.com/b' is not valid"),
        ({"migs": [{"pattern": "*", "name": "a" * 64}]}, "migs[0].name: 'aaa"),
        ({"gpus": [{"pattern": "*", "name": "a", "profile": "x"}]}, "gpus[0].profile is not known"),
        (
            {"gpus": [{"pattern": "*", "name": "a", "product": "x"}]},
            "gpus[0].product is in the wrong place; write resources.migs[].product",
        ),
        (
            {"migs": [{"pattern": "1g.5gb", "name": "mig-2g.10gb"}]},
            "nvidia.com/mig-2g.10gb is the name of another profile's devices",
        ),
        ({"migs": [{"pattern": "1g.10gb+me", "name": "mig-1g.10gb.me"}]}, None),
        ({"migs": [{"pattern": "1g.5gb", "name": "mig-small"}]}, None),
        ({"gpus": [{"pattern": "*", "name": "mig-1g.5gb"}]}, "another profile's devices"),
        ({"migs": [{"pattern": "*", "name": "gpu"}]}, "nvidia.com/gpu is a name of whole GPUs"),
        (
            {
                "gpus": [{"pattern": "*", "name": "a"}],
                "migs": [{"pattern": "*", "name": "nvidia.com/a"}],
            },
            "resources.migs[0].name: nvidia.com/a is a name of whole GPUs",
        ),
    ],
)
def test_what_cannot_be_a_name_is_refused(resources: Any, said: str | None) -> None:
    if said is None:
        parsed(**resources)
        return
    with pytest.raises(ConfigError) as refused:
        parse_document("config file x", {"version": "v1", "resources": resources})
    assert said in str(refused.value)
