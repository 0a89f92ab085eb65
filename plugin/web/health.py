"""Whether the daemon is alive and whether it is ready, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plugin.core.view import View

#: A call of the driver that takes longer hangs: the slowest good ones take a few seconds.
HUNG_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Good without reasons; each reason is a sentence."""

    reasons: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not self.reasons


def health(view: View, hung_seconds: float = HUNG_SECONDS) -> Verdict:
    """Whether everything runs that should; what is wrong with devices or kubelet is no reason to
    start anew.
    """
    return Verdict(tuple(_hung(view, hung_seconds)))


def _hung(view: View, hung_seconds: float) -> Iterator[str]:
    for task in view.stuck:
        yield f"the task {task} does not run"
    if view.driver_busy > hung_seconds:
        yield f"the driver has not come back from a call for {view.driver_busy:.0f} s"


def readiness(view: View) -> Verdict:
    """Whether kubelet has every resource; where there is none, whether the driver says so."""
    advertised = view.snapshot.advertisement.resources
    if advertised:
        return Verdict(tuple(_unregistered(view)))
    if not view.snapshot.generation:
        return Verdict(("the node has not been looked at yet",))
    if view.snapshot.driver_error:
        return Verdict((view.snapshot.driver_error.text,))
    return Verdict()


def _unregistered(view: View) -> Iterator[str]:
    known = {status.resource: status for status in view.resources}
    for resource in view.snapshot.advertisement.resources:
        status = known.get(resource)
        if status is None or not status.registered:
            why = f": {status.last_error}" if status is not None and status.last_error else ""
            yield f"{resource} is not registered with kubelet{why}"
        elif status.stream_since is None:
            yield f"kubelet has no stream of {resource} open"
