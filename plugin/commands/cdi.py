"""``cdi``: prints, names and checks CDI specifications."""

from __future__ import annotations

import contextlib
import json
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from plugin import specification
from plugin.assembly import build_driver
from plugin.cdi.specifier import HOOK_FIX, make_documents
from plugin.commands.look import look
from plugin.config import atomic
from plugin.core.cdi.names import ALL, file_name
from plugin.core.cdi.specification import Document, Entry, entries
from plugin.core.dev_root import host_dev_root
from plugin.core.inventory.model import Inventory
from plugin.core.settings import Settings
from plugin.errors import ConfigError, SpecificationError

if TYPE_CHECKING:
    from plugin.cdi.validation import Lookup


class Chosen(NamedTuple):
    """What of the node to include: devices by name, and a kind; empty for all."""

    names: tuple[str, ...] = ()
    kind: str = ""


def generate(settings: Settings, chosen: Chosen, output: str, file: str | None) -> int:
    """Print the specification, or write it to a file."""
    documents = _generated(settings, chosen)
    if len(documents) > 1:
        raise SpecificationError(
            f"a CDI specification has devices of one kind, and this node has those of "
            f"{' and '.join(documents)}",
            f"choose one: {' or '.join(f'--kind={kind}' for kind in documents)}",
        )
    (document,) = documents.values()
    if file is None:
        print(_written(document, output), end="")
        return 0
    try:
        atomic.replace(Path(file), _written(document, output).encode())
    except OSError as error:
        raise SpecificationError(f"writing {file}: {error.strerror}") from error
    return 0


def list_names(settings: Settings) -> int:
    """Print the names by which a container can ask for devices."""
    for kind, document in _generated(settings, Chosen()).items():
        for device in document["devices"]:
            print(f"{kind}={device['name']}")
    return 0


def validate(settings: Settings, files: Sequence[str]) -> int:
    """Check files, or those that the daemon wrote; the exit status is 1 if anything is wrong."""
    paths = [Path(file) for file in files] or _ours(settings)
    lookup = _lookup(settings)
    status = 0
    for path in paths:
        found = _faults(path, lookup)
        print(f"{path}: {'; '.join(found) if found else 'valid'}")
        status = status or int(bool(found))
    return status


def _generated(settings: Settings, chosen: Chosen) -> Mapping[str, Document]:
    inventory = _scan(settings)
    included = _included(entries(inventory, settings), chosen)
    installations = specification.installations(settings, inventory)
    documents, problem = make_documents(included.values(), inventory, settings, installations)
    if problem:
        print(
            f"mig-device-plugin: NVIDIA's hooks are not used: {problem}; {HOOK_FIX}",
            file=sys.stderr,
        )
    return documents


def _included(found: Mapping[str, Entry], chosen: Chosen) -> Mapping[str, Entry]:
    known = {name for entry in found.values() for name in entry.names}
    for name in chosen.names:
        if name != ALL and name not in known:
            raise SpecificationError(
                f"--device {name}: no such device on this node", "`cdi list` prints the names"
            )
    every = not chosen.names or ALL in chosen.names
    included = {
        uuid: entry
        for uuid, entry in found.items()
        if (every or not set(chosen.names).isdisjoint(entry.names))
        and chosen.kind in {"", entry.kind, entry.kind.partition("/")[2]}
    }
    if not included:
        raise SpecificationError(
            f"no device of this node is of kind {chosen.kind}"
            if chosen.kind and found
            else "this node has no device for a CDI specification",
            "`mig-device-plugin devices` shows what it has",
        )
    return included


def _written(document: Document, output: str) -> str:
    if output == "json":
        return json.dumps(document, indent=2) + "\n"
    import yaml  # noqa: PLC0415 — 25 ms, for this output only

    return str(yaml.safe_dump(document, sort_keys=False))


def _ours(settings: Settings) -> list[Path]:
    if settings.simulate and not settings.cdi_directory:
        raise SpecificationError(
            "a simulated node has no CDI directory of its own", "name files, or --cdi-directory"
        )
    directory = specification.directory(settings, Path())
    found = sorted(directory.glob(file_name("*")))
    if not found:
        raise SpecificationError(
            f"{directory} has no CDI specification of this plugin", "name files to check"
        )
    return found


def _faults(path: Path, lookup: Lookup) -> list[str]:
    from plugin.cdi.validation import faults  # noqa: PLC0415 — 70 ms, for this action only
    from plugin.config import document  # noqa: PLC0415 — YAML, see above

    try:
        return list(faults(document.read("the file", path), lookup))
    except ConfigError as error:
        return [str(error)]


def _lookup(settings: Settings) -> Lookup:
    """What is at a path of the host: below the mounted driver root, or as it is."""
    from plugin.cdi.validation import Found  # noqa: PLC0415 — as above

    if settings.simulate:
        inventory = _scan(settings)
        nodes = {
            *inventory.control_nodes,
            *(node for device in inventory.devices() for node in device.device_nodes),
        }
        (installation,) = specification.installations(settings, inventory)
        dev = host_dev_root(inventory, settings).rstrip("/")
        driver = settings.driver_root.rstrip("/")

        def simulated(path: str) -> Found:
            if path.removeprefix(dev) in nodes:
                return Found.DEVICE
            is_file = installation.real(path.removeprefix(driver)) is not None
            return Found.OTHER if is_file else Found.NOTHING

        return simulated

    mounted, root = settings.container_driver_root, settings.driver_root.rstrip("/")

    def on_host(path: str) -> Found:
        paths = [path]
        if path.startswith(f"{root}/"):
            paths.append(mounted + path.removeprefix(root))
        for each in paths:
            with contextlib.suppress(OSError, ValueError):
                mode = Path(each).stat().st_mode
                is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
                return Found.DEVICE if is_device else Found.OTHER
        return Found.NOTHING

    return on_host


def _scan(settings: Settings) -> Inventory:
    driver, _ = build_driver(settings)
    return look(driver)
