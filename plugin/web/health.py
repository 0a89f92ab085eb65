"""Whether the daemon is alive and whether it is ready, and why not."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from plugin.core.configuration import refused
from plugin.core.release import describe
from plugin.core.view import View

#: A call of the driver that takes longer is worth a word.
SLOW_SECONDS = 10.0


class Verdict(Struct, frozen=True):
    """Good without reasons; each reason is a sentence. ``notes`` are sentences too, about what does
    not keep it from being good.
    """

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return not self.reasons


def health(view: View) -> Verdict:
    """Whether everything runs that should.

    What is wrong with devices, kubelet or the driver is no reason to start anew: a call that hangs
    in the kernel hangs in the next process too, which would not even know the node's devices.
    """
    return Verdict(tuple(f"the task {task} does not run" for task in view.stuck))


def readiness(view: View) -> Verdict:
    """Whether kubelet has every resource; where there is none, whether the driver says so."""
    snapshot = view.snapshot
    notes = tuple(_notes(view))
    if not snapshot.generation:
        return Verdict(("the node has not been looked at yet",), notes)
    if snapshot.advertisement.resources:
        return Verdict(tuple(_unregistered(view)), notes)
    return Verdict((snapshot.driver_error.text,) if snapshot.driver_error else (), notes)


def _notes(view: View) -> Iterator[str]:
    """Why devices are out of service as long as something cannot be asked of the driver, and what
    is not as somebody wants it.
    """
    snapshot = view.snapshot
    if snapshot.release:
        yield describe(snapshot.release, snapshot.inventory)
    if view.driver_busy > SLOW_SECONDS:
        yield f"the driver has not come back from a call for {view.driver_busy:.0f} s"
    if snapshot.driver_error and snapshot.advertisement.resources:
        yield snapshot.driver_error.text
    for gpu in snapshot.inventory.gpus:
        if gpu.hung and gpu.error:
            yield gpu.error
        elif (unwatched := snapshot.unwatched.get(gpu.uuid)) is not None:
            yield f"events of GPU {gpu.path} are not watched: {unwatched.text}"
    for index in sorted(snapshot.inventory.hung):
        yield snapshot.inventory.unreadable[index]
    if snapshot.configuration.problem:
        yield refused(snapshot.configuration)
    yield from view.notes
    yield from _cluster_notes(view)


def _cluster_notes(view: View) -> Iterator[str]:
    if view.cluster is None:
        return
    yield from view.cluster.problems
    if view.cluster.away_since is not None:
        seconds = max(0.0, view.now - view.cluster.away_since)
        why = f": {view.cluster.away_because}" if view.cluster.away_because else ""
        yield f"the API server has not answered for {seconds:.0f} s{why}"


def _unregistered(view: View) -> Iterator[str]:
    known = {status.resource: status for status in view.resources}
    for resource in view.snapshot.advertisement.resources:
        status = known.get(resource)
        if status is None or not status.registered:
            why = f": {status.last_error}" if status is not None and status.last_error else ""
            yield f"{resource} is not registered with kubelet{why}"
        elif status.stream_since is None:
            yield f"kubelet has no stream of {resource} open"
