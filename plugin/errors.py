"""Every error that this project raises on purpose.

::

    PluginError
    ├── ConfigError            flag, environment or file; refused before start, exit status 2
    │   └── ConfigUnreadable   the file could not be read: what it says is not known
    ├── SimulationError        unknown node or geometry, impossible placement
    ├── DriverError
    │   ├── DriverUnavailable  no library, no driver loaded, initialisation failed; retried
    │   │   ├── DriverMismatch library and kernel module differ in version
    │   │   └── DriverStale    GPUs came or went: opening it again is enough
    │   ├── DriverReplaced     upgraded under us: only a new process can load the new library
    │   ├── DriverOutOfReach   the library does not come into this container: only into a new one
    │   └── DriverCallFailed   one call failed; carries NVML's code
    │       ├── DeviceInUse           a process holds it, or an instance has others in it
    │       ├── InsufficientResources no room for the instance
    │       ├── InvalidPlacement      the card has no such instance at this place
    │       ├── NotSupported          the card, its mode or the driver does not have it
    │       ├── NoPermission          this process lacks the right
    │       ├── ResetNeeded           the GPU must be reset first, as for a pending MIG mode
    │       ├── NoSuchInstance        it is not, or no longer, on the GPU
    │       ├── GpuLost               the GPU does not answer any more
    │       ├── GpuHangs              not asked: a call about the GPU has not returned
    │       ├── ProfilesUnknown       a GPU does not say whether it offers what is wanted
    │       └── OutcomeUnknown        a change may or may not have been made: look again
    ├── RequestError           kubelet's request cannot be fulfilled
    │   ├── InvalidRequest     empty, duplicated or too many ids
    │   ├── UnknownDevice      no such id on this node
    │   └── DeviceUnavailable  known, but unhealthy or withdrawn
    ├── SpecificationError     a CDI specification cannot be made or written
    ├── ControlError           a command to the running daemon cannot be carried out
    │   ├── TargetError        it names no device of this node
    │   ├── NotRunning         no daemon listens on the control socket
    │   └── NoAnswer           it ended the connection, or did not answer in time
    ├── KubeletError           registration was refused or kubelet is not there
    └── ClusterError           the Kubernetes API server
        ├── ClusterUnreachable no usable answer; carries the cause
        └── ClusterRefused     an answer of 400 or above; carries code and reason

``what`` names the failed operation and its object, ``fix`` the next step. As text: ``what; fix``.
"""

from __future__ import annotations

from typing import Final

#: In place of a code of NVML where it gave none, or an answer that could not be read.
NO_CODE: Final = -1


class PluginError(Exception):
    """Base of all errors; its text is fit for an administrator."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what = what
        self.fix = fix


class ConfigError(PluginError):
    """A setting is unknown or invalid. The text names the key, the value and the choices in one
    line.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        # The quoted value may contain line breaks.
        super().__init__(" ".join(what.split()), " ".join(fix.split()))


class ConfigUnreadable(ConfigError):
    """A configuration could not be read; that may be otherwise later without a change of it."""


class SimulationError(PluginError):
    """The real hardware could not do what was asked of the simulated node."""


class DriverError(PluginError):
    """The driver did not answer as needed."""


class DriverUnavailable(DriverError):
    """NVML cannot be used now; the daemon retries.

    ``final`` says that waiting is of no use: what would have to change never does for this process.
    """

    def __init__(self, what: str, fix: str = "", *, final: bool = False) -> None:
        super().__init__(what, fix)
        self.final = final


class DriverStale(DriverUnavailable):
    """GPUs were added or removed, which NVML notices only when initialised again: close, open,
    scan.
    """


class DriverMismatch(DriverUnavailable):
    """Library and kernel module differ in version, as during an upgrade, or the library is older
    than this plugin needs.
    """


class DriverReplaced(DriverError):
    """The driver was upgraded while this process has the old library loaded: only a new process can
    load the new one.
    """


class DriverOutOfReach(DriverError):
    """A library that fits cannot come into this container: NVIDIA's runtime adds it to new ones."""


class DriverCallFailed(DriverError):
    """``code`` is NVML's return code (``nvmlReturn_t``), :data:`NO_CODE` where it gave none;
    ``gpu_lost`` is true for codes that mean a lost GPU.
    """

    def __init__(self, what: str, fix: str = "", *, code: int, gpu_lost: bool = False) -> None:
        super().__init__(what, fix)
        self.code = code
        self.gpu_lost = gpu_lost


class DeviceInUse(DriverCallFailed):
    """A process holds the device, or the instance still has compute instances."""


class InsufficientResources(DriverCallFailed):
    """There is no room for the instance beside those that are there."""


class InvalidPlacement(DriverCallFailed):
    """The card has no instance of this profile, or none at this place."""


class NotSupported(DriverCallFailed):
    """The card or the driver does not have this, or not with its present MIG mode."""


class NoPermission(DriverCallFailed):
    """This process lacks the right to do or to see this."""


class ResetNeeded(DriverCallFailed):
    """The GPU must be reset first, or the node restarted: a switch of MIG mode is pending, or the
    driver asks for it.
    """


class NoSuchInstance(DriverCallFailed):
    """The GPU or compute instance is not, or no longer, there."""


class GpuLost(DriverCallFailed):
    """The GPU fell off the bus or is no longer known to the driver."""


class GpuHangs(DriverCallFailed):
    """A call about the GPU has not returned, so it was not asked and nothing was changed."""


class ProfilesUnknown(DriverCallFailed):
    """A GPU does not say what it offers, so nobody knows whether it offers what is wanted."""


class OutcomeUnknown(DriverCallFailed):
    """A change may or may not have been made, or may yet be: the call has not returned, failed for
    an unclear reason, or what it made could not be read back. Only a new look can tell.
    """


class RequestError(PluginError):
    """Kubelet's request cannot be fulfilled."""


class InvalidRequest(RequestError):
    """Empty, duplicated or too many ids."""


class UnknownDevice(RequestError):
    """The id is not, or no longer, on this node."""


class DeviceUnavailable(RequestError):
    """The device exists and must not be handed out now."""


class KubeletError(PluginError):
    """Registration was refused, or kubelet is not there."""


class SpecificationError(PluginError):
    """A CDI specification cannot be made, written or read."""


class ControlError(PluginError):
    """A command to the running daemon failed."""


class TargetError(ControlError):
    """The command names no device of this node."""


class NotRunning(ControlError):
    """No daemon listens on the control socket."""


class NoAnswer(ControlError):
    """The daemon was asked and has not answered: the command may have been carried out."""


class ClusterError(PluginError):
    """A request to the Kubernetes API server failed. ``persists``: again and again, although the
    API server answers.
    """

    persists = False


class ClusterUnreachable(ClusterError):
    """There was no usable answer. ``cause`` is one of :class:`plugin.cluster.failures.Cause`."""

    def __init__(self, what: str, fix: str = "", *, cause: str) -> None:
        super().__init__(what, fix)
        self.cause = cause


class ClusterRefused(ClusterError):
    """The API server answered with an error.

    ``code`` is HTTP's status, ``reason`` that of the Status object (``Conflict``; empty without
    one), ``causes`` the reasons of its details. ``retry_after`` is in seconds, ``None`` if the
    answer named no time.
    """

    def __init__(
        self,
        what: str,
        fix: str = "",
        *,
        code: int,
        reason: str = "",
        causes: tuple[str, ...] = (),
        retry_after: float | None = None,
        message: str = "",
    ) -> None:
        super().__init__(what, fix)
        self.code = code
        self.reason = reason
        self.causes = causes
        self.retry_after = retry_after
        self.message = message
