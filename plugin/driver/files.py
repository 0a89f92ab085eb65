"""Device nodes, MIG capability files and NUMA nodes, read from the file system under configurable
roots.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

#: Needed by every container with a GPU; those that do not exist are left out (nvidia-modeset often
#: does not).
CONTROL_NODES = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
)


#: As this process sees them: a driver root may be mounted anywhere.
_DEVICE_NODE = re.compile(r"/dev/nvidia")
_CAPABILITY_LINE = re.compile(r"^DeviceFile(Minor|Mode|Modify): *([0-9]+)$", re.MULTILINE)
_CAPABILITY_MAJOR = re.compile(r"^ *([0-9]+) nvidia-caps$", re.MULTILINE)


log = logging.getLogger(__name__)


class FileSource(Protocol):
    """Where files are looked up by absolute path: on the machine, or in a simulated one."""

    def exists(self, path: str) -> bool:
        """Whether it is there, or may be: unknown is no fault."""

    def read(self, path: str) -> str | None:
        """Its text, ``None`` when it cannot be read."""

    def names(self, folder: str) -> frozenset[str] | None:
        """Names in a folder, ``None`` when it cannot be listed."""

    def opened(self) -> Collection[str]:
        """The driver's device nodes that this process has open or mapped."""

    def make_node(self, path: str, minor: int, mode: int) -> None:
        """Make a capability's device node. Raises OSError."""


class DiskFiles:
    """The machine's own file system."""

    def exists(self, path: str) -> bool:
        try:
            Path(path).stat()
        except OSError as error:
            return error.errno == errno.EACCES  # it may well be there
        return True

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text(encoding="ascii", errors="replace")
        except OSError:
            return None

    def names(self, folder: str) -> frozenset[str] | None:
        try:
            return frozenset(path.name for path in Path(folder).iterdir())
        except OSError:
            return None

    def opened(self) -> frozenset[str]:
        # Of this process, so never below another mount point of procfs.
        targets = [_target(path) for path in Path("/proc/self/fd").iterdir()]
        # A mapping holds the device too, after its descriptor was closed.
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        targets += [line.split(maxsplit=5)[-1] for line in maps.splitlines()]
        return frozenset(target for target in targets if _DEVICE_NODE.search(target))

    def make_node(self, path: str, minor: int, mode: int) -> None:
        # The kernel's own list, never below another mount point of procfs.
        majors = _CAPABILITY_MAJOR.findall(Path("/proc/devices").read_text(encoding="ascii"))
        if not majors:
            raise OSError(errno.ENODEV, "the kernel has no nvidia-caps", "/proc/devices")
        Path(path).parent.mkdir(mode=0o755, exist_ok=True)
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(int(majors[0]), minor))
        Path(path).chmod(mode)  # whatever the umask


class DeviceFiles:
    """Looks files up; keeps nothing but mig-minors, which never changes while a driver is loaded.

    `roots` are folders that may contain ``dev/`` (the first that has ``nvidiactl`` in it counts);
    `host_roots` are those among them that show what the settings call the host's device root;
    `proc` and `sys` are the mount points of procfs and sysfs, or copies of them. Missing and
    unreadable files are answers, not exceptions.
    """

    def __init__(
        self,
        *roots: Path,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        source: FileSource | None = None,
        host_roots: Collection[Path] = (),
    ) -> None:
        self._roots = roots or (Path("/"),)
        self._host_roots = host_roots
        self.root = self._roots[-1]
        #: The host's root of the nodes, where it certainly is not that of the settings.
        self.host_root = ""
        self.proc = proc
        self.sys = sys
        self._source = source or DiskFiles()
        self._minors: dict[str, int] = {}

    def control_nodes(self) -> tuple[str, ...]:
        """Those that exist. Decides anew which root counts: a driver container's may be mounted
        late.
        """
        having = [root for root in self._roots if self._has_nodes(root)]
        self.root = having[0] if having else self._roots[-1]
        self._compare(found=bool(having))
        return tuple(node for node in CONTROL_NODES if self.exists(node))

    def _has_nodes(self, root: Path) -> bool:
        return self._source.exists(_below(root, "/dev/nvidiactl"))

    def _compare(self, *, found: bool) -> None:
        """Nodes in our own ``/dev`` are those of the host's, and not below the device root, if we
        see that root and it has none.
        """
        own = Path("/")
        seen = [root for root in self._host_roots if root != own and self._source.exists(str(root))]
        elsewhere = found and self.root == own and own not in self._host_roots and bool(seen)
        if elsewhere and not self.host_root:
            log.warning(
                "no device nodes below the device root, using those in /dev",
                extra={"root": str(seen[0]), "fix": "set --dev-root=/"},
            )
        self.host_root = "/" if elsewhere else ""

    def exists(self, node: str) -> bool:
        """Whether a node such as ``/dev/nvidia0`` is there, below our own root."""
        return self._source.exists(_below(self.root, node))

    def gpu(self, minor: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """``(nodes, missing)`` of a whole GPU, both as absolute paths."""
        if minor is None:
            return (), ()
        node = f"/dev/nvidia{minor}"
        return (node,), (() if self.exists(node) else (node,))

    def mig(self, minor: int | None, gi: int, ci: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """``(nodes, missing)`` of one MIG device: its GPU's node and the capability nodes of its GI
        and CI.

        A capability whose number cannot be found is missing under the name of its capability file.
        """
        nodes, missing = map(list, self.gpu(minor))
        if minor is None:
            return tuple(nodes), tuple(missing)
        for capability in _capabilities(minor, gi, ci):
            number = self._capability_minor(capability)
            if number is None:
                missing.append(f"/proc/driver/nvidia/capabilities/{capability}")
                continue
            node = f"/dev/nvidia-caps/nvidia-cap{number}"
            nodes.append(node)
            if not self.exists(node):
                missing.append(node)
        return tuple(nodes), tuple(missing)

    def make_missing(self, minor: int, gi: int, ci: int) -> None:
        """Make the capability nodes of a new MIG device that are not there.

        The kernel module makes none: `nvidia-modprobe`, nvidia-smi and NVIDIA's container runtime
        do when they are run. Where the capability's file says that its node is not to be made
        (``DeviceFileModify: 0``), and where that fails, the device has a missing node.
        """
        for capability in _capabilities(minor, gi, ci):
            text = self._source.read(f"{self.proc}/driver/nvidia/capabilities/{capability}")
            said = dict(_CAPABILITY_LINE.findall(text or ""))
            if said.get("Modify") != "1" or "Minor" not in said or "Mode" not in said:
                continue
            node = f"/dev/nvidia-caps/nvidia-cap{said['Minor']}"
            if self.exists(node):
                continue
            try:
                path = _below(self.root, node)
                self._source.make_node(path, int(said["Minor"]), int(said["Mode"]) & 0o777)
            except OSError as error:
                log.warning("device node not made", extra={"node": node, "reason": str(error)})
            else:
                log.info("device node made", extra={"node": node})

    def instances(self, minor: int | None) -> tuple[set[int], set[tuple[int, int]]] | None:
        """Ids of the GPU instances and (GI, CI) of the compute instances that the kernel module has
        on a GPU, ``None`` where it does not say.
        """
        folder = f"{self.proc}/driver/nvidia/capabilities/gpu{minor}/mig"
        names = self._source.names(folder)
        if names is None:
            return None
        gpu_instances = _numbered(names, "gi")
        compute = set()
        for gi in gpu_instances:
            below = self._source.names(f"{folder}/gi{gi}")
            if below is None:
                return None
            compute |= {(gi, ci) for ci in _numbered(below, "ci")}
        return gpu_instances, compute

    def numa(self, pci_bus_id: str) -> int | None:
        """NUMA node of a PCI device, ``None`` where the system does not know (-1) or say."""
        text = self._source.read(f"{self.sys}/bus/pci/devices/{pci_bus_id}/numa_node")
        try:
            node = int(text) if text is not None else -1
        except ValueError:
            return None
        return node if node >= 0 else None

    def pci_class(self, pci_bus_id: str) -> int | None:
        """Class of a PCI device, ``None`` where the system does not say."""
        text = self._source.read(f"{self.sys}/bus/pci/devices/{pci_bus_id}/class")
        try:
            return int(text, 16) if text is not None else None
        except ValueError:
            return None

    def machine(self) -> str:
        """The machine's product name, empty where the firmware or the system does not say."""
        return (self._source.read(f"{self.sys}/class/dmi/id/product_name") or "").strip()

    def pci_addresses(self) -> frozenset[str] | None:
        """PCI addresses of the GPUs that the kernel module drives now, ``None`` where it does not
        say.

        In a container this may be a copy, made when the container started, which never changes.
        """
        names = self._source.names(f"{self.proc}/driver/nvidia/gpus")
        return None if names is None else frozenset(name.lower() for name in names)

    def opened(self) -> tuple[str, ...]:
        """The driver's device nodes that this process has open: while it has, no GPU can be reset
        and the kernel module cannot be unloaded.
        """
        return tuple(sorted(self._source.opened()))

    def _capability_minor(self, capability: str) -> int | None:
        """The live instance's own file says it; mig-minors, which lists all that could be, is the
        fallback.
        """
        text = self._source.read(f"{self.proc}/driver/nvidia/capabilities/{capability}")
        if text is not None:
            for line in text.splitlines():
                key, _, value = line.partition(":")
                if key == "DeviceFileMinor" and value.strip().isdecimal():
                    return int(value)
        if not self._minors:  # the file is not there before the driver is
            self._minors = parse_mig_minors(
                self._source.read(f"{self.proc}/driver/nvidia-caps/mig-minors") or ""
            )
        return self._minors.get(capability.replace("/mig/", "/"))


def _capabilities(minor: int, gi: int, ci: int) -> tuple[str, str]:
    """The capability files of a GPU instance and its compute instance."""
    return f"gpu{minor}/mig/gi{gi}/access", f"gpu{minor}/mig/gi{gi}/ci{ci}/access"


def _numbered(names: Collection[str], kind: str) -> set[int]:
    """The numbers of names such as ``gi7``."""
    rests = (name.removeprefix(kind) for name in names if name.startswith(kind))
    return {int(rest) for rest in rests if rest.isascii() and rest.isdecimal()}


def parse_mig_minors(text: str) -> dict[str, int]:
    """``gpu0/gi1/ci0/access 13`` per line → minor by name; lines of any other form are skipped."""
    minors = {}
    for line in text.splitlines():
        match line.split():
            case [name, number] if number.isascii() and number.isdecimal():
                minors[name] = int(number)
    return minors


def sysfs_bus_id(nvml_bus_id: str) -> str:
    """NVML's ``00000000:00:06.0`` (8-digit domain, any case) as sysfs writes it: ``0000:00:06.0``.

    Domains above ``ffff``, as Intel's VMD has them, keep their five or more digits in sysfs too.
    """
    domain, _, rest = nvml_bus_id.lower().partition(":")
    return f"{domain.lstrip('0'):0>4}:{rest}" if rest else domain


def _target(link: Path) -> str:
    """Where a link leads; nowhere if it is gone, as the descriptor of the listing itself is."""
    try:
        return os.readlink(link)  # noqa: PTH115 — what a pipe's leads to is no path
    except OSError:
        return ""


def _below(root: Path, path: str) -> str:
    return f"{str(root).rstrip('/')}{path}"
