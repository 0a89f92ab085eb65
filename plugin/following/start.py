"""What the daemon starts with: the newest configuration, or else the last good one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from plugin.config.load import CommandLine, Loaded
from plugin.core.configuration import Configuration
from plugin.core.settings import Settings
from plugin.errors import ClusterError, ConfigError
from plugin.following.kept_file import KeptFile
from plugin.following.label_file import LabelFile
from plugin.loops.aside import briefly

log = logging.getLogger(__name__)

#: Beside the ledger: the last value of the label.
LABEL_FILE = "config-label"


class Start(NamedTuple):
    """``label`` is the value of the node's label that it was read with, ``problem`` why the newest
    configuration was refused, so that this is an older one.
    """

    loaded: Loaded
    label: str = ""
    problem: str = ""

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.loaded.name, self.problem)


def newest(line: CommandLine) -> Loaded | ConfigError:
    """The configuration, or why it is refused, as long as nothing is known of the node's label."""
    try:
        return line.read()
    except ConfigError as error:
        return error


def begin(
    line: CommandLine, unlabelled: Loaded | ConfigError, ledger: Path, kept: KeptFile | None
) -> Start:
    """`unlabelled` is :func:`newest`. Where a label names the configuration, what it said last
    counts; what it says now is asked for only when nothing else can be used, since a start must not
    wait for the API server. Blocks. Raises :class:`ConfigError` when nothing can be used.
    """
    alone = line.alone()
    label = LabelFile(ledger.with_name(LABEL_FILE)).read() if alone.is_labelled else ""
    if not alone.config_dir and not alone.config_file and kept is not None:
        # Nothing depends on it, so a file system that hangs must not keep the daemon.
        briefly(kept.forget, None)
    try:
        if label:
            return Start(line.read(label), label)
        if isinstance(unlabelled, Loaded):
            return Start(unlabelled)
        refused = unlabelled
    except ConfigError as error:
        refused = error
    last = _last_good(line, label, kept)
    if last is not None:
        log.error(
            "configuration not taken, the last good one is used",
            extra={"reason": str(refused), **({"configuration": last.name} if last.name else {})},
        )
        return Start(last, label, str(refused))
    if isinstance(unlabelled, Loaded):
        log.warning(
            "the configuration that the node's label named last cannot be used",
            extra={"reason": str(refused), "instead": unlabelled.name},
        )
        return Start(unlabelled)
    if alone.is_labelled and not label:
        asked = _ask(alone, refused)
        return Start(line.read(asked), asked)
    raise refused


def _ask(alone: Settings, refused: ConfigError) -> str:
    """The label's value. Raises :class:`ConfigError` if there is none."""
    from plugin.following import asked_label  # noqa: PLC0415 — the API server's client, seldom needed

    try:
        label = asked_label.ask(alone)
    except (ClusterError, ConfigError) as error:
        text = f"{refused.what}; the label {alone.config_label} is not known: {error}"
        raise ConfigError(text, refused.fix) from error
    if not label:
        text = f"{refused.what}, and the Node has no label {alone.config_label}"
        raise ConfigError(text, refused.fix)
    return label


def _last_good(line: CommandLine, label: str, kept: KeptFile | None) -> Loaded | None:
    source = kept.read() if kept is not None else None
    if source is None:
        return None
    try:
        return line.reread(source, label)
    except ConfigError as error:
        log.warning("the last good configuration cannot be used", extra={"reason": str(error)})
        return None
