"""Files of MIG configurations: what is read, and what every error names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plugin.config import document
from plugin.config.mig_configs import parse, read
from plugin.core.partition.comparison import document as written
from plugin.core.partition.configuration import Configuration, Entry, Wanted
from plugin.errors import ConfigError

EXAMPLE = """
version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false
  custom:
    - device-filter: "0x20b010de"
      devices: [0, 3]
      mig-enabled: true
      mig-devices: {"1g.5gb": 2, "1g.5gb.me": 1, "1c.3g.20gb": 2, "3c.3g.20gb": 0}
    - device-filter: ["0x20B210DE", 0X233010DE]
      devices: all
      mig-enabled: true
      mig-devices: {}
"""


def entry(**changes: Any) -> dict[str, Any]:
    made = {"devices": "all", "mig-enabled": True, "mig-devices": {"1g.5gb": 7}}
    made.update({key.replace("_", "-"): value for key, value in changes.items()})
    return {key: value for key, value in made.items() if value is not ...}


def file(*entries: object) -> dict[str, Any]:
    return {"version": "v1", "mig-configs": {"other": [entry()], "mine": list(entries)}}


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    devices = {"1g.5gb": 2, "1g.5gb+me": 1, "1c.3g.20gb": 2}
    assert read(path) == {
        "all-disabled": Configuration("all-disabled", (Entry(Wanted(mig=False)),)),
        "custom": Configuration(
            "custom",
            (
                Entry(Wanted.of(devices), (0, 3), frozenset({0x20B010DE})),
                Entry(Wanted.of({}), None, frozenset({0x20B210DE, 0x233010DE})),
            ),
        ),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": ...}, "mine[0]: devices is missing; choose all, or a list of indices of GPUs"),
        ({"devices": "some"}, "mine[0].devices: 'some' is not valid; choose all, or a list of"),
        ({"devices": []}, "mine[0].devices: [] is not valid; choose all, or a list"),
        ({"devices": [0, "1"]}, "mine[0].devices: '1' is not valid; choose indices of GPUs"),
        ({"devices": [True]}, "mine[0].devices: True is not valid"),
        ({"devices": [-1]}, "mine[0].devices: -1 is not valid; choose indices of GPUs, from 0"),
        ({"devices": [2, 1, 2]}, "mine[0].devices: GPU 2 is named twice; name it once"),
        ({"mig_enabled": ...}, "mine[0]: mig-enabled is missing; choose true or false"),
        ({"mig_enabled": "on"}, "mine[0].mig-enabled: 'on' is not valid; choose true or false"),
        ({"mig_devices": ...}, "mine[0]: mig-devices is missing; with mig-enabled: true, write"),
        (
            {"mig_enabled": False},
            "mine[0]: mig-devices has profiles although mig-enabled is false; remove them",
        ),
        ({"mig_devices": ["1g.5gb"]}, "mine[0].mig-devices: ['1g.5gb'] is not valid; choose a map"),
        ({"mig_devices": {"1g": 1}}, "mine[0].mig-devices: '1g' is not valid; choose a profile"),
        ({"mig_devices": {"4c.3g.20gb": 1}}, "mine[0].mig-devices: '4c.3g.20gb' is not valid"),
        ({"mig_devices": {"0c.3g.20gb": 1}}, "mine[0].mig-devices: '0c.3g.20gb' is not valid"),
        ({"mig_devices": {7: 1}}, "mine[0].mig-devices: 7 is not valid; choose a profile such as"),
        (
            {"mig_devices": {"1g.5gb+me": 1, "1g.5gb.me": 1}},
            "mine[0].mig-devices: 1g.5gb+me is given twice; give it once",
        ),
        ({"mig_devices": {"1g.5gb": -1}}, "mine[0].mig-devices.1g.5gb: -1 is not valid; choose a"),
        ({"mig_devices": {"1g.5gb": 65}}, "mine[0].mig-devices.1g.5gb: 65 is not valid; choose a"),
        ({"mig_devices": {"1g.5gb": True}}, "mine[0].mig-devices.1g.5gb: True is not valid"),
        ({"mig_devices": {"1g.5gb": "7"}}, "mine[0].mig-devices.1g.5gb: '7' is not valid; choose"),
        ({"device_filter": []}, "mine[0].device-filter: [] is not valid; choose one or a list of"),
        ({"device_filter": "20B010DE"}, "mine[0].device-filter: '20B010DE' is not valid; choose P"),
        ({"device_filter": [1]}, "mine[0].device-filter: 1 is not valid; choose PCI device ids"),
        ({"device_filter": None}, "mine[0].device-filter: None is not valid; choose one or a list"),
        (
            {"mig_device": {}},
            "mine[0]: 'mig-device' is no field; did you mean mig-devices? The choices are",
        ),
        (
            {"gpus": "all"},
            "mine[0]: 'gpus' is no field; the choices are device-filter, devices, mig-enabled, mig",
        ),
    ],
)
def test_every_error_names_configuration_entry_field_and_choices(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse("partition file x", file(entry(**changes)))
    assert str(refused.value).startswith(f"partition file x: mig-configs.{message}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "the whole document: None is not valid; choose a mapping with version, mig-configs"),
        ({"mig-configs": {}}, "version is missing; begin with version: v1"),
        ({"version": "v2"}, "version: 'v2' is not valid; choose v1"),
        ({"version": "v1"}, "mig-configs: None is not valid; choose a mapping of names"),
        ({"version": "v1", "mig-configs": {}}, "mig-configs: {} is not valid; choose a mapping"),
        ({"version": "v1", "mig-configs": {3: []}}, "mig-configs: 3 is not valid; choose a text"),
        ({"version": "v1", "mig-configs": {"a": []}}, "mig-configs.a: [] is not valid; choose a"),
        ({"version": "v1", "mig-configs": {"a": [7]}}, "mig-configs.a[0]: it: 7 is not valid"),
        ({"version": "v1", "migConfigs": {}}, "'migConfigs' is no field; did you mean mig-configs"),
    ],
)
def test_errors_above_the_entries(given: object, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse("x", given)
    assert str(refused.value).startswith(f"x: {message}")


def test_a_name_that_is_given_twice_is_refused() -> None:
    text = EXAMPLE + "  custom: []\n"
    with pytest.raises(ConfigError, match=r"x: 'custom' is given twice \(line 16\)"):
        document.parse("x", text)


profiles = st.dictionaries(
    st.sampled_from(["1g.5gb", "1g.5gb+me", "1c.3g.20gb", "1g.24gb-me", "2g.48gb+me.all"]),
    st.integers(1, 7),
)
entries = st.builds(
    Entry,
    st.one_of(st.just(Wanted(mig=False)), profiles.map(Wanted.of)),
    st.none() | st.lists(st.integers(0, 15), min_size=1, unique=True).map(tuple),
    st.frozensets(st.integers(0, 2**32 - 1), max_size=2),
)


@given(st.lists(entries, min_size=1, max_size=4))
def test_what_is_written_is_read_again(made: list[Entry]) -> None:
    configuration = Configuration("current", tuple(made))
    text = yaml.safe_dump(written([configuration]), sort_keys=False, default_flow_style=None)
    assert parse("x", document.parse("x", text)) == {"current": configuration}
