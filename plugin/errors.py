"""Every error that this project raises on purpose.

::

    PluginError
    ├── ConfigError            flag, environment or file; refused before start, exit status 2
    ├── SimulationError        unknown node or geometry, impossible placement
    ├── DriverError
    │   ├── DriverUnavailable  no library, no driver loaded, initialisation failed: may come later
    │   │   ├── DriverMismatch library and kernel module differ in version
    │   │   └── DriverStale    GPUs came or went: opening it again is enough
    │   ├── DriverReplaced     upgraded under us: only a new process can load the new library
    │   ├── DriverOutOfReach   the library does not come into this container: only into a new one
    │   └── DriverCallFailed   one call failed; carries NVML's code
    ├── RequestError           kubelet asked for something that cannot be given
    │   ├── InvalidRequest     empty, duplicated or too many ids
    │   ├── UnknownDevice      no such id on this node
    │   └── DeviceUnavailable  known, but unhealthy or withdrawn
    ├── ControlError           a command to the running daemon cannot be carried out
    │   ├── TargetError        it names no device of this node
    │   └── NotRunning         there is no daemon to give it to
    └── KubeletError           registration was refused or kubelet is not there

An error carries what happened and the fix apart: ``what`` names what was being done and to what,
``fix`` what to do next. As text they are one line, ``what; fix``.
"""

from __future__ import annotations


class PluginError(Exception):
    """Base of every error raised on purpose; its text is fit for an administrator."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix


class ConfigError(PluginError):
    """A setting is unknown or has a bad value. The text names the key, the value and the choices in
    one line.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        # What was given may hold line breaks.
        super().__init__(" ".join(what.split()), " ".join(fix.split()))


class SimulationError(PluginError):
    """The simulated node was asked for something that the real hardware could not do."""


class DriverError(PluginError):
    """The NVIDIA driver did not answer as needed."""


class DriverUnavailable(DriverError):
    """NVML cannot be used now; it may come later, so a daemon retries.

    ``final`` says that waiting is of no use: what would have to change never does for this process.
    """

    def __init__(self, what: str, fix: str = "", *, final: bool = False) -> None:
        super().__init__(what, fix)
        self.final = final


class DriverStale(DriverUnavailable):
    """GPUs came or went, which NVML sees only when it is initialised again: close, open, scan."""


class DriverMismatch(DriverUnavailable):
    """Library and kernel module are of different versions, as they are in the middle of an
    upgrade, or the library is older than this plugin needs.
    """


class DriverReplaced(DriverError):
    """The driver was upgraded while its old library is loaded here: only a new process can load the
    new one.
    """


class DriverOutOfReach(DriverError):
    """A library that fits cannot come into this container: NVIDIA's runtime adds it to new ones."""


class DriverCallFailed(DriverError):
    """One NVML call failed.

    ``code`` is NVML's return code (``nvmlReturn_t``), ``gpu_lost`` tells the codes that mean the
    GPU is gone.
    """

    def __init__(self, what: str, fix: str = "", *, code: int, gpu_lost: bool = False) -> None:
        super().__init__(what, fix)
        self.code = code
        self.gpu_lost = gpu_lost


class RequestError(PluginError):
    """Kubelet's request cannot be fulfilled."""


class InvalidRequest(RequestError):
    """The request itself is wrong: empty, duplicated or too many ids."""


class UnknownDevice(RequestError):
    """The id is not, or no longer, on this node."""


class DeviceUnavailable(RequestError):
    """The device exists but must not be handed out now."""


class KubeletError(PluginError):
    """Kubelet could not be reached or refused the registration."""


class ControlError(PluginError):
    """A command to the running daemon could not be carried out."""


class TargetError(ControlError):
    """A command names a device that is not on this node."""


class NotRunning(ControlError):
    """No daemon listens on the control socket."""
