"""The driver installation of a simulated node, as Debian's packages make it; its libraries are
those of a real H100's.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from plugin.driver.shared_object import SharedObject

_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_PROGRAMS = "/usr/bin"
#: Version in the SONAME; ``None`` where that is the driver's.
_SONAMES = {
    "libEGL_nvidia": "0",
    "libcuda": "1",
    "libcudadebugger": "1",
    "libnvcuvid": "1",
    "libnvidia-allocator": "1",
    "libnvidia-cfg": "1",
    "libnvidia-encode": "1",
    "libnvidia-glcore": None,
    "libnvidia-gpucomp": None,
    "libnvidia-ml": "1",
    "libnvidia-nvvm": "4",
    "libnvidia-opencl": "1",
    "libnvidia-pkcs11-openssl3": None,
    "libnvidia-ptxjitcompiler": "1",
}
_PROGRAM_NAMES = (
    *("nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-debugdump"),
    *("nvidia-persistenced", "nvidia-smi"),
)


class SimInstallation:
    """As a :class:`plugin.driver.installation.Installation`."""

    def __init__(self, version: str, host_root: str = "/") -> None:
        self.host_root = host_root
        self._sonames = {
            f"{_LIBRARIES}/{name}.so.{version}": f"{name}.so.{number or version}"
            for name, number in _SONAMES.items()
        }
        self._links = {f"{_LIBRARIES}/{soname}": path for path, soname in self._sonames.items()}
        self._programs = {f"{_PROGRAMS}/{name}" for name in _PROGRAM_NAMES}

    def names(self, folder: str) -> Collection[str]:
        paths = map(PurePosixPath, (*self._sonames, *self._links, *self._programs))
        return {path.name for path in paths if path.parent == PurePosixPath(folder)}

    def real(self, path: str) -> str | None:
        real = self._links.get(path, path)
        return real if real in self._sonames or real in self._programs else None

    def is_program(self, path: str) -> bool:
        return path in self._programs

    def shared_object(self, path: str) -> SharedObject | None:
        soname = self._sonames.get(path)
        return SharedObject(soname, "x86_64") if soname is not None else None

    def loader_cache(self) -> bytes:
        return b""
