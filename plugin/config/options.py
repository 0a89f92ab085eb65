"""The table of options, and NVIDIA's options that have no effect."""

from __future__ import annotations

from dataclasses import fields

from plugin.core.grammars import Address, Taint
from plugin.core.option import Change, Option
from plugin.core.quote import quote
from plugin.core.settings import Settings
from plugin.errors import ConfigError


def _named(field: str, declared: Option) -> Option:
    """Fill in the names that follow from the field and its first flag."""
    flags = declared.flags or ("--" + field.replace("_", "-"),)
    first, *rest = flags[0].removeprefix("--").split("-")
    key = declared.key or "plugin." + first + "".join(map(str.capitalize, rest))
    return declared._replace(
        field=field,
        flags=flags,
        envs=declared.envs or ("_".join((first, *rest)).upper(),),
        key=key if declared.in_file else "",
        change=declared.change if declared.in_file else Change.RESTART,
    )


OPTIONS = tuple(
    _named(field.name, field.metadata["option"]) for field in fields(Settings) if field.metadata
)


def written(value: object) -> str:
    """The value in its option's grammar; empty for none."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return repr(value).removesuffix(".0")
        case tuple() if not isinstance(value, Address | Taint):
            return ",".join(map(written, value))
        case _:
            return str(value)


def parse(option: Option, name: str, value: object) -> object:
    """Raises :class:`ConfigError`, which names the option by `name`."""
    if value == "" and option.empty:
        return option.empty[0]
    try:
        return option.grammar.parse(value)
    except ValueError:
        choices = option.grammar.choices + (", or nothing" if option.empty else "")
        raise refusal(name, value, choices) from None


def refusal(name: str, value: object, choices: str) -> ConfigError:
    return ConfigError(f"{name}: {quote(value)} is not valid; choose {choices}")


#: NVIDIA's options that have no effect here. They are accepted with a warning, so that existing
#: files and manifests work. Variables are named after the flags: MPS_ROOT for --mps-root.
IGNORED_FLAGS = {
    "--mps-root": "MPS is not supported",
    "--device-discovery-strategy": "devices are always discovered through NVML",
    "--imex-channel-ids": "IMEX channels are not supported",
    "--imex-required": "IMEX channels are not supported",
    "--cdi-annotation-prefix": "CDI is not supported yet",
    "--nvidia-cdi-hook-path": "CDI is not supported yet",
    "--nvidia-ctk-path": "CDI is not supported yet",
    "--cdi-feature-flags": "CDI is not supported yet",
}
IGNORED_KEYS = {
    "mpsRoot": "MPS is not supported",
    "deviceDiscoveryStrategy": "devices are always discovered through NVML",
    "useNodeFeatureAPI": "labels have options of their own: --features-file and --node-labels",
    "gfd": "labels have options of their own: --features-file and --node-labels",
    "plugin.cdiAnnotationPrefix": "CDI is not supported yet",
    "plugin.nvidiaCTKPath": "CDI is not supported yet",
    "plugin.nvidiaCDIHookPath": "CDI is not supported yet",
    "plugin.mps": "MPS is not supported",
}
