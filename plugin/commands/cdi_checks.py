"""Checks of the CDI directory, for ``doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from plugin import specification
from plugin.cdi.directory import SpecificationDirectory
from plugin.commands.check import Check, Outcome, shortened
from plugin.core.cdi.names import ALL
from plugin.core.cdi.specification import entries, entries_by_kind
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.errors import SpecificationError

#: What container runtimes read by default; ``/var/run`` is ``/run``.
_USUAL = frozenset({"/etc/cdi", "/var/run/cdi", "/run/cdi"})
#: Where their configuration names other directories.
_CONFIGS = (
    "etc/containerd/config.toml",
    "etc/crio/crio.conf",
    "etc/crio/crio.conf.d",
    "etc/docker/daemon.json",
)
_UPDATE = "start the daemon, which brings it up to date; its log says why it cannot"


def directory_checks(settings: Settings, root: Path = Path("/")) -> Iterator[Check]:
    """Whether specifications can be written where runtimes read them; `root` has the runtimes'
    configurations.
    """
    if not settings.by_cdi or not _is_known(settings):
        return
    folder = specification.directory(settings, Path())
    yield _writable(folder)
    if not settings.simulate and str(folder) not in _USUAL and not _is_named(folder, root):
        yield Check(
            "CDI runtimes",
            Outcome.WARN,
            f"container runtimes read /etc/cdi and /var/run/cdi by default, not {folder}",
            "leave --cdi-directory out, or name the directory in the runtime's configuration "
            "(cdi_spec_dirs)",
        )


def specification_checks(inventory: Inventory, settings: Settings) -> Iterator[Check]:
    """Whether the files there are ours, and of the devices that are there."""
    if not _is_known(settings):
        return
    directory = SpecificationDirectory(specification.directory(settings, Path()))
    found = entries(inventory, settings).values() if settings.by_cdi else ()
    known = {
        kind: frozenset(name for entry in listed for name in entry.names)
        for kind, listed in entries_by_kind(inventory, settings).items()
    }
    wanted = {
        kind: frozenset(name for entry in found if entry.kind == kind for name in entry.names)
        for kind in dict.fromkeys(entry.kind for entry in found)
    }
    try:
        for kind, names in wanted.items():
            directory.refuse_others(kind, {*names, ALL})
        there = directory.devices()
    except SpecificationError as error:
        yield Check("CDI files", Outcome.FAIL, error.what, error.fix)
    except (OSError, ValueError) as error:
        yield Check(
            "CDI files", Outcome.WARN, str(error), "remove the file, and restart the daemon"
        )
    else:
        names_there = {kind: names - {ALL} for kind, names in there.items()}
        yield from _compared(wanted, known, names_there)


def _compared(
    wanted: Mapping[str, frozenset[str]],
    known: Mapping[str, frozenset[str]],
    there: Mapping[str, frozenset[str]],
) -> Iterator[Check]:
    """By kind, names of devices: those that files should have, those that are on the node, and
    those in files of ours.
    """
    # The daemon keeps what pods were given under other settings, as long as the devices are there.
    stale = [kind for kind in there if kind not in wanted and there[kind] != known.get(kind)]
    if stale:
        yield Check(
            "CDI files",
            Outcome.WARN,
            f"files of former settings, of kind {shortened(stale)}, do not have what is on the "
            "node",
            _UPDATE,
        )
    for kind, names in wanted.items():
        if kind not in there:
            yield Check("CDI files", Outcome.WARN, f"no devices of kind {kind} yet", _UPDATE)
        elif names != there[kind]:
            missing, more = sorted(names - there[kind]), sorted(there[kind] - names)
            parts = [f"{shortened(missing)} missing"] if missing else []
            parts += [f"{shortened(more)} not on the node"] if more else []
            yield Check("CDI files", Outcome.WARN, f"{kind}: {'; '.join(parts)}", _UPDATE)
    if wanted and not stale and all(there.get(kind) == wanted[kind] for kind in wanted):
        yield Check("CDI files", Outcome.PASS, f"devices of kind {', '.join(wanted)}")


def _writable(folder: Path) -> Check:
    name, user = "CDI directory", os.getuid()
    if folder.is_dir():
        if os.access(folder, os.W_OK | os.X_OK):
            return Check(name, Outcome.PASS, str(folder))
        return Check(
            name,
            Outcome.FAIL,
            f"{folder} is not writable for user {user}",
            "run as root, and mount it writable",
        )
    if os.path.lexists(folder):
        return Check(name, Outcome.FAIL, f"{folder} is no directory", "remove it, or name another")
    if folder.parent.is_dir() and os.access(folder.parent, os.W_OK | os.X_OK):
        return Check(
            name,
            Outcome.WARN,
            f"{folder} does not exist yet, and the daemon makes it",
            "in a container, mount the host's directory there: else no runtime sees it",
        )
    return Check(
        name,
        Outcome.FAIL,
        f"{folder} does not exist and cannot be made by user {user}",
        "make it, or mount it from the host, see --cdi-directory",
    )


def _is_known(settings: Settings) -> bool:
    """The directory of a simulation that names none is known to its process alone."""
    return not settings.simulate or bool(settings.cdi_directory)


def _is_named(folder: Path, root: Path) -> bool:
    """Whether a container runtime's configuration names it, as far as that is seen from here."""
    for config in map(root.joinpath, _CONFIGS):
        for path in (config, *config.glob("*")):
            try:
                if str(folder) in path.read_text(errors="replace"):
                    return True
            except OSError:
                continue
    return False
