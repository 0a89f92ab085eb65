"""Which of several configurations a node uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.config import choice
from plugin.config.load import load
from plugin.errors import ConfigError, ConfigUnreadable

LABEL = "nvidia.com/device-plugin.config"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A ConfigMap as kubelet mounts it: links to files below a link that it replaces."""
    (tmp_path / "..2026_1").mkdir()
    (tmp_path / "..data").symlink_to("..2026_1")
    for name, strategy in (("none", "none"), ("single", "single"), ("b.yaml", "mixed")):
        (tmp_path / "..2026_1" / name).write_text(
            f"version: v1\nflags: {{migStrategy: {strategy}}}"
        )
        (tmp_path / name).symlink_to(f"..data/{name}")
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "label", "chosen"),
    [
        ({"CONFIG_DEFAULT": "b.yaml"}, "", "b.yaml"),
        ({"CONFIG_DEFAULT": "b.yaml"}, "single", "b.yaml"),  # no label was asked for
        ({"CONFIG_DEFAULT": "b.yaml", "CONFIG_LABEL": LABEL}, "single", "single"),
        ({"CONFIG_DEFAULT": "b.yaml", "CONFIG_LABEL": LABEL}, "", "b.yaml"),
        ({"CONFIG_DEFAULT": "gone", "CONFIG_LABEL": LABEL}, "none", "none"),
        ({"CONFIG_NAME": "none", "CONFIG_LABEL": LABEL}, "single", "none"),
        ({"CONFIG_NAME": "none", "CONFIG_DEFAULT": "single"}, "", "none"),
    ],
)
def test_name_over_label_over_default(
    configs: Path, asked: dict[str, str], label: str, chosen: str
) -> None:
    loaded = load({}, {"CONFIG_DIR": str(configs), **asked}, label)
    assert loaded.name == chosen
    assert loaded.settings.mig_strategy == {"b.yaml": "mixed"}.get(chosen, chosen)


def test_without_a_default_there_is_one_called_default_or_only_one(configs: Path) -> None:
    env = {"CONFIG_DIR": str(configs)}
    with pytest.raises(ConfigError, match=r"nothing says which .* --config-default; the choices"):
        load({}, env)
    (configs / "default").write_text("version: v1")
    assert load({}, env).name == "default"
    for name in ("default", "none", "single"):
        (configs / name).unlink()
    assert load({}, env).name == "b.yaml"


@pytest.mark.parametrize(
    ("asked", "label", "text"),
    [
        ({"CONFIG_NAME": "x"}, "", "has no configuration 'x', which --config-name names; the cho"),
        ({"CONFIG_DEFAULT": "x"}, "", "has no configuration 'x', which --config-default names"),
        (
            {"CONFIG_LABEL": LABEL, "CONFIG_DEFAULT": "none"},
            "x",
            (
                f"has no configuration 'x', which the node's label {LABEL} names; the choices are "
                "b.yaml, none, single"
            ),
        ),
        # What a label says never becomes a path.
        ({"CONFIG_LABEL": LABEL}, "../etc/passwd", "has no configuration '../etc/passwd'"),
        ({"CONFIG_LABEL": LABEL}, "..data", "has no configuration '..data'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_choices(
    configs: Path, asked: dict[str, str], label: str, text: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, {"CONFIG_DIR": str(configs), **asked}, label)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"CONFIG_DIR": "/c", "CONFIG_FILE": "/f"}, "--config-dir: is given with --config-file"),
        ({"CONFIG_NAME": "a"}, "--config-name: is given without --config-dir"),
        ({"CONFIG_LABEL": LABEL}, "--config-label: is given without --config-dir"),
        (
            {"CONFIG_DEFAULT": "a", "CONFIG_FILE": "/f"},
            "--config-default: is given without --config-dir",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused(given: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, given)
    assert text in str(refused.value)


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    gone = {"CONFIG_DIR": str(tmp_path / "gone")}
    with pytest.raises(ConfigUnreadable, match="gone: cannot be read: No such file"):
        load({}, gone)
    with pytest.raises(ConfigError, match="the directory holds none"):
        load({}, {"CONFIG_DIR": str(tmp_path)})
    for number in range(choice.MOST_FILES + 1):
        (tmp_path / f"f{number}").touch()
    with pytest.raises(ConfigError, match="holds more than 1000 files"):
        load({}, {"CONFIG_DIR": str(tmp_path)})
