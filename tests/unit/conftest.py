"""Hypothesis here depends on values alone, not on how busy the machine is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from plugin.config.load import Loaded, load

from .config_samples import Load, arguments

settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")


@pytest.fixture
def load_from(tmp_path: Path) -> Load:
    """``load_from(*argv, env={…}, file=document or text)``."""

    def load_from(*argv: str, env: Mapping[str, str] | None = None, file: object = None) -> Loaded:
        if file is not None:
            path = tmp_path / "config.yaml"
            path.write_text(file if isinstance(file, str) else yaml.safe_dump(file))
            argv = (*argv, f"--config-file={path}")
        return load(arguments(argv), env or {})

    return load_from
