"""The state as JSON: what it says of nodes, and that its schema says the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import replace

import plugin.web.state
from plugin.core.advertise.advertisement import advertise
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing
from plugin.core.view import Holder, View
from plugin.web.state import document
from tests.web.scenes import (
    NOW,
    SCENES,
    balanced,
    cordoned,
    faulted,
    held,
    invalid_single,
    no_gpus,
    node,
)

SCHEMA = Path(plugin.web.state.__file__).with_name("state.schema.json")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/api.md"
ONE, TWO = Holder("ml", "one", "main"), Holder("ml", "two", "side")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_every_state_is_as_its_schema_says(
    schema: dict[str, Any], scene: Callable[[], View]
) -> None:
    Draft202012Validator(schema).validate(json.loads(json.dumps(document(scene(), "node-7"))))


def test_the_schema_says_everything_that_is_there(schema: dict[str, Any]) -> None:
    """A field without a description, or one that the schema does not know,
    would be seen by nobody.
    """
    found: list[str] = []

    def look(part: Any, path: str) -> None:
        if isinstance(part, dict):
            for name, each in part.get("properties", {}).items():
                if "description" not in each and "$ref" not in each:
                    found.append(f"{path}.{name}")
            if "properties" in part and (
                part.get("unevaluatedProperties", part.get("additionalProperties")) is not False
                and not path.endswith(".common")
            ):
                found.append(f"{path} takes more")
            for name, each in part.items():
                look(each, f"{path}.{name}")
        elif isinstance(part, list):
            for number, each in enumerate(part):
                look(each, f"{path}.{number}")

    look(schema, "")
    assert found == []


def test_the_schema_refuses_what_is_unknown(schema: dict[str, Any]) -> None:
    state = document(balanced())
    state["gpus"][0]["surprise"] = 1
    assert not Draft202012Validator(schema).is_valid(state)


def test_the_same_state_makes_the_same_document() -> None:
    assert document(balanced()) == document(replace(balanced(), now=NOW + 1000.0, driver_busy=3.0))


# ---- what it says


def states(view: View) -> list[list[str | None]]:
    return [[device["state"] for device in gpu["migDevices"]] for gpu in document(view)["gpus"]]


def test_states_with_and_without_kubelets_word() -> None:
    made = node("1xa100-40gb:all-balanced")
    first, *_ = made.inventory.gpus[0].mig_devices
    assert states(made.view({first.uuid: (ONE,)})) == [["allocated", "free", "free", "free"]]
    unknown = document(made.view(None))
    assert states(made.view(None)) == [["healthy"] * 4]
    assert unknown["allocationsKnown"] is False
    assert unknown["resources"]["nvidia.com/mig-1g.5gb"]["states"] == {
        "unhealthy": 0,
        "cordoned": 0,
        "healthy": 2,
    }


def test_a_fault_counts_more_than_a_cordon_and_that_more_than_a_pod() -> None:
    made = node("1xa100-40gb:all-balanced")
    first, second, *_ = made.inventory.gpus[0].mig_devices
    made = made.cordon(first.uuid).cordon(second.uuid).xid(48, 0, second.gi)
    devices = document(made.view(held(made.inventory)))["gpus"][0]["migDevices"]
    assert [device["state"] for device in devices] == [
        "cordoned",
        "unhealthy",
        "allocated",
        "allocated",
    ]
    assert [reason["code"] for reason in devices[1]["reasons"]] == ["cordoned", "xid-48"]
    assert devices[1]["holders"][0]["pod"]


def test_a_cordoned_or_faulted_gpu_says_so_itself() -> None:
    assert document(cordoned())["gpus"][0]["state"] == "cordoned"
    state = document(faulted())
    assert [gpu["state"] for gpu in state["gpus"]] == [
        None,
        None,
        "unhealthy",
        "free",
        None,
        None,
        None,
        None,
    ]


def test_resources_count_each_id_once() -> None:
    for scene in SCENES.values():
        for resource in document(scene())["resources"].values():
            assert sum(resource["states"].values()) == resource["devices"]
    resource = document(faulted())["resources"]["nvidia.com/mig-1g.10gb"]
    assert resource["states"] == {"unhealthy": 8, "cordoned": 0, "allocated": 6, "free": 1}
    assert (resource["devices"], resource["healthy"], resource["held"]) == (15, 7, 13)
    assert document(cordoned())["resources"]["nvidia.com/mig-1g.5gb"]["states"]["cordoned"] == 2


def test_replicas_are_several_pods_of_one_device() -> None:
    settings = Settings(
        mig_strategy=MigStrategy.MIXED,
        sharing=Sharing((SharedResource("nvidia.com/mig-7g.40gb", replicas=3),)),
    )
    made = dataclasses.replace(node("1xa100-40gb:all-7g.40gb"), settings=settings)
    uuid = made.inventory.gpus[0].mig_devices[0].uuid
    state = document(made.view({f"{uuid}::0": (ONE,), f"{uuid}::2": (TWO,)}))
    (device,) = state["gpus"][0]["migDevices"]
    assert [(holder["id"], holder["pod"]) for holder in device["holders"]] == [
        (f"{uuid}::0", "one"),
        (f"{uuid}::2", "two"),
    ]
    assert device["state"] == "allocated"
    assert state["resources"]["nvidia.com/mig-7g.40gb"]["states"] == {
        "unhealthy": 0,
        "cordoned": 0,
        "allocated": 2,
        "free": 1,
    }


def test_what_is_not_known_is_not_free() -> None:
    made = node("1xa100-40gb:all-1g.5gb")
    one, two, *_ = (device.uuid for device in made.inventory.gpus[0].mig_devices)
    seen = made.view({one: (ONE,)})
    unknown = document(replace(seen, holders_complete=False, handed_out=frozenset({two})))
    assert unknown["allocationsKnown"] is False
    resource = unknown["resources"]["nvidia.com/mig-1g.5gb"]
    assert resource["held"] is None
    assert resource["states"] == {"unhealthy": 0, "cordoned": 0, "allocated": 2, "healthy": 5}
    states = [device["state"] for device in unknown["gpus"][0]["migDevices"]]
    assert states == ["allocated", "allocated", *["healthy"] * 5]
    known = document(replace(seen, handed_out=frozenset({two})))
    assert known["resources"]["nvidia.com/mig-1g.5gb"]["held"] == 2
    assert known["gpus"][0]["migDevices"][1]["state"] == "allocated"
    assert known["gpus"][0]["migDevices"][1]["holders"] == []


def test_a_device_with_two_pods_is_a_problem() -> None:
    seen = node("1xa100-40gb:all-1g.5gb").view({})
    state = document(replace(seen, held_twice=("MIG-1 is held by 2 pods: a, b",)))
    assert state["problems"] == ["MIG-1 is held by 2 pods: a, b"]


def test_a_device_that_is_gone_is_named_with_its_pod() -> None:
    state = document(node("1xa100-40gb:all-balanced").view({"MIG-gone::1": (ONE,)}))
    assert state["gone"] == [
        {
            "uuid": "MIG-gone",
            "holders": [
                {"id": "MIG-gone::1", "namespace": "ml", "pod": "one", "container": "main"}
            ],
        }
    ]


@pytest.mark.parametrize(
    ("geometry", "runs"),
    [
        ("1xa100-40gb:all-1g.5gb", [(7, 1, False)]),
        ("1xa100-40gb:all-balanced", []),
        ("1xa100-40gb:0=on", [(0, 8, True)]),
        ("1xa100-40gb:0=3g.20gb,1g.5gb", [(5, 3, True)]),
        ("1xa30-24gb:0=1g.6gb*2", [(2, 2, True)]),
        ("1xa100-40gb:0=off", []),
        ("1xt4-16gb", []),
    ],
)
def test_free_runs(geometry: str, runs: list[tuple[int, int, bool]]) -> None:
    (gpu,) = document(node(geometry).view({}))["gpus"]
    assert [(run["start"], run["size"], run["usable"]) for run in gpu["freeRuns"]] == runs


def test_nothing_is_guessed_about_slices_where_placements_or_profiles_are_unknown() -> None:
    made = node("1xa100-40gb:0=3g.20gb,1g.5gb")
    (gpu,) = made.inventory.gpus
    first, second = gpu.mig_devices

    def runs(**changes: Any) -> list[dict[str, Any]]:
        devices = (first, replace(second, **changes))
        inventory = replace(made.inventory, gpus=(replace(gpu, mig_devices=devices),))
        found: list[dict[str, Any]] = document(
            dataclasses.replace(made, inventory=inventory).view()
        )["gpus"][0]["freeRuns"]
        return found

    assert runs(placement=None) == []
    assert [run["usable"] for run in runs(profile="", gi_slices=0)] == [None]


def test_what_is_wrong_with_the_node() -> None:
    state = document(no_gpus())
    assert "libnvidia-ml.so.1" in state["driver"]["error"]
    assert state["readiness"]["reasons"] == [state["driver"]["error"]]
    assert state["health"]["good"] is True
    hung = document(replace(no_gpus(), driver_busy=47.0))
    assert (hung["driver"]["busySeconds"], hung["health"]["good"]) == (40, True)
    assert "--mig-strategy=single" in document(invalid_single())["problems"][0]


def test_registration_of_every_resource_also_of_one_that_is_not_advertised_any_more() -> None:
    view = balanced()
    settings = Settings(mig_strategy=MigStrategy.NONE)
    snapshot = replace(
        view.snapshot, settings=settings, advertisement=advertise(view.snapshot.inventory, settings)
    )
    resources = document(replace(view, snapshot=snapshot))["resources"]
    assert resources["nvidia.com/gpu"]["registered"] is False
    assert resources["nvidia.com/mig-1g.5gb"]["registered"] is True
    assert resources["nvidia.com/mig-1g.5gb"]["devices"] == 0


def test_use_is_what_was_sampled() -> None:
    device = document(balanced())["gpus"][0]["migDevices"][0]
    assert device["use"]["smActive"] == 0.5
    assert device["use"]["memoryUsedBytes"] * 2 == device["use"]["memoryTotalBytes"]
    assert document(replace(balanced(), samples=None))["gpus"][0]["migDevices"][0]["use"] is None
    assert document(replace(balanced(), holders=MappingProxyType({})))["sampled"] == NOW - 3


# ---- the document


def kind(part: dict[str, Any]) -> str:
    """The type of a field in a word or two, as the document writes it."""
    if "$ref" in part:
        return f"[{part['$ref'].rpartition('/')[2]}](#{part['$ref'].rpartition('/')[2].lower()})"
    if "anyOf" in part:
        return " or ".join(kind(each) for each in part["anyOf"])
    if values := part.get("enum", [part["const"]] if "const" in part else []):
        return ", ".join(f"`{each}`" if each else "null" for each in values)
    if part["type"] == "array":
        return f"array of {kind(part['items'])}"
    if part["type"] == "object" and isinstance(part.get("additionalProperties"), dict):
        return f"object of {kind(part['additionalProperties'])}"
    return " or ".join(part["type"]) if isinstance(part["type"], list) else str(part["type"])


def table(part: dict[str, Any], prefix: str = "") -> list[str]:
    """A row for each field, those of nested objects included."""
    found = []
    for name, each in part["properties"].items():
        text = each.get("description", "")
        found.append(f"| `{prefix}{name}` | {kind(each)} | {text} |")
        for nested, dots in (
            (each, "."),
            (each.get("items", {}), "[]."),
            *((one, ".") for one in each.get("anyOf", ())),
        ):
            if "properties" in nested:
                found += table(nested, f"{prefix}{name}{dots}")
    return found


def documented_tables(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Name of a part → its rows. What GPUs and MIG devices have in common has a table of its own,
    "device".
    """
    found = {name: table(part) for name, part in schema["$defs"].items()}
    common = [row for row in found["gpu"] if row in found["migDevice"]]
    for name in ("gpu", "migDevice"):
        found[name] = [row for row in found[name] if row not in common]
    return {"": table(schema), **found, "device": common}


def test_the_document_says_what_the_schema_says(schema: dict[str, Any]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, rows in documented_tables(schema).items():
        assert rows
        heading = f"### {name}\n\n" if name else "## The state as JSON\n"
        assert heading in text
        # Each in its own section, and the whole table.
        section = text.partition(heading)[2].partition("\n### ")[0]
        assert (
            "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows, ""]) in section
        )
