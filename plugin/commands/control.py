"""``cordon``, ``uncordon``, ``drain``, ``release``, ``resume``, ``health clear`` and ``sim``:
commands to the running daemon.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from plugin.control.client import ask
from plugin.core.holders import Holdings, answered, containers, from_json, unanswered
from plugin.core.settings import Settings
from plugin.errors import ConfigError, KubeletError
from plugin.kubelet.podresources.observer import Observer

FREE, NOT_FREE = 0, 1

#: Pause between two requests; kubelet answers at most 100 a second in total.
ASK_SECONDS = 0.5
#: After this many failures without any answer, kubelet counts as absent.
UNANSWERED = 3
#: This many consecutive answers must list no holder.
AGREEING = 2
#: Repeat an unchanged notice after the first, then after every further interval.
REMIND_FIRST_SECONDS, REMIND_SECONDS = 10.0, 60.0

_MAY_HAVE_ENDED = (
    "a kubelet before Kubernetes 1.32 also lists pods that have ended: `kubectl get pod` shows them"
)


def change(socket: str, verb: str, target: str) -> int:
    """Cordon, uncordon or clear a device on the running daemon, and print the effect."""
    _show(ask(socket, verb, target))
    return 0


def simulate(socket: str, verb: str, arguments: Sequence[str]) -> int:
    """Carry out a ``sim`` verb on the running daemon's simulated node, and print the effect."""
    _show(ask(socket, "sim", verb, *arguments))
    return 0


def release(socket: str, targets: Sequence[str], seconds: float) -> int:
    """Have the running daemon let go of the driver. Returns 0 once it has, 1 when it cannot yet."""
    done = ask(socket, "release", f"{seconds:g}", *targets)
    _show(done)
    return 0 if done["released"] else 1


def resume(socket: str) -> int:
    """Have the running daemon use the driver again. Returns 0 once it does, 1 when it cannot
    yet.
    """
    done = ask(socket, "resume")
    _show(done)
    return 0 if done["resumed"] else 1


def drain(settings: Settings, target: str, seconds: float) -> int:
    """Cordon a device, then wait until no pod holds it, for at most `seconds` (0: forever).

    Returns 0 if it is free and 1 otherwise. Raises ControlError, or KubeletError if kubelet never
    answers; the device stays cordoned in each case.
    """
    if not settings.pod_resources_socket:
        raise ConfigError(
            "--pod-resources-socket: '' is not valid for drain; choose kubelet's, which knows "
            "the pods"
        )
    done = ask(settings.control_socket, "cordon", target)
    _show(done)
    observer = Observer.of(replace(settings, kubelet_socket=done["kubelet"]))
    known = from_json(done["holdings"], observer.clock())
    return asyncio.run(wait_until_free(done["devices"], observer, known, seconds))


async def wait_until_free(
    devices: Sequence[str], observer: Observer, known: Holdings, seconds: float
) -> int:
    """`known` are the daemon's holdings when it cordoned the devices: it allocates none of them
    after that. Returns and raises as :func:`drain`.
    """
    clock = observer.clock
    begun = clock()
    notices = Notices()
    answers = failures = agreeing = 0
    while True:
        problem = ""
        try:
            known = answered(known, await observer.ask(known, devices))
            answers += 1
        except KubeletError as error:
            failures += 1
            if not answers and failures == UNANSWERED:
                raise
            known, problem = unanswered(known), str(error)
        agreeing = agreeing + 1 if known.certainly_free else 0
        if agreeing == AGREEING:
            _print("drained: no pod holds it")
            return FREE
        waiting = waiting_for(known, problem)
        hint = known.trusted and bool(known.holders)
        notice = notices.due(waiting, clock()) if waiting else None
        if notice:
            _print(f"{notice}; {_MAY_HAVE_ENDED}" if hint and notice != waiting else notice)
        left = begun + seconds - clock() if seconds else ASK_SECONDS
        if left <= 0:
            _print(
                f"not drained within {seconds:g} s; it stays cordoned, and `uncordon` puts it "
                "back into service"
            )
            if hint:
                _print(_MAY_HAVE_ENDED)
            return NOT_FREE
        await asyncio.sleep(min(left, ASK_SECONDS))


class Notices:
    """Limits notices to changes and occasional reminders."""

    def __init__(self) -> None:
        self._last = ""
        self._again = 0.0

    def due(self, text: str, now: float) -> str | None:
        if text != self._last:
            self._last, self._again = text, now + REMIND_FIRST_SECONDS
            return text
        if now < self._again:
            return None
        self._again = now + REMIND_SECONDS
        return f"still {text}"


def waiting_for(known: Holdings, problem: str) -> str:
    """One line that says why the device may not be free; empty if it is. `problem` is the error of
    the last request to kubelet.
    """
    holders = containers(known.holders)
    if problem or not known.trusted:
        missing = (
            f"waiting, pod resources not answering: {problem}"
            if problem
            else "waiting for kubelet to list its pods again"
        )
        return f"{missing}; last known: {', '.join(holders)}" if holders else missing
    if holders:
        return (
            f"waiting for {len(holders)} container{'s' * (len(holders) > 1)}: {', '.join(holders)}"
        )
    if known.handed_out:
        return "waiting for kubelet to list the container that was given it a moment ago"
    return ""


def _show(done: dict[str, Any]) -> None:
    _print(done["text"])
    if done.get("warning"):
        print(f"mig-device-plugin: {done['warning']}", file=sys.stderr)


def _print(text: str) -> None:
    print(text, flush=True)  # at once, even into a pipe
