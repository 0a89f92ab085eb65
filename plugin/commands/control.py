"""``cordon``, ``uncordon``, ``drain``, ``health clear`` and ``sim``: commands to the running
daemon.
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

#: Between two questions to kubelet, which answers at most 100 a second to all who ask.
ASK_SECONDS = 0.5
#: A kubelet that has left so many questions unanswered, and never answered one, is not there.
UNANSWERED = 3
#: So many answers in a row must say that nobody holds it.
AGREEING = 2
#: What is waited for is said again after a while, and then every so often.
REMIND_FIRST_SECONDS, REMIND_SECONDS = 10.0, 60.0

_MAY_HAVE_ENDED = (
    "a kubelet before Kubernetes 1.32 also lists pods that have ended: `kubectl get pod` shows them"
)


def mark(socket: str, verb: str, target: str) -> int:
    """Have the daemon cordon, uncordon or clear a device, and print what it did."""
    _show(ask(socket, verb, target))
    return 0


def simulate(socket: str, verb: str, arguments: Sequence[str]) -> int:
    """Have something happen on a simulated daemon's node."""
    _show(ask(socket, "sim", verb, *arguments))
    return 0


def drain(settings: Settings, target: str, seconds: float) -> int:
    """Cordon a device, then wait until no pod holds it, for at most `seconds` (0: without end).

    Returns 0 when it is free and 1 when it is not by then. Raises ControlError, or KubeletError
    when kubelet never answers; the device stays cordoned in each case.
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
    """`known` is what the daemon knew when the devices were cordoned: it hands out nothing of them
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
    """What to print of what is waited for: each change at once, and that it is still so."""

    def __init__(self) -> None:
        self._said = ""
        self._again = 0.0

    def due(self, text: str, now: float) -> str | None:
        if text != self._said:
            self._said, self._again = text, now + REMIND_FIRST_SECONDS
            return text
        if now < self._again:
            return None
        self._again = now + REMIND_SECONDS
        return f"still {text}"


def waiting_for(known: Holdings, problem: str) -> str:
    """One line on what is missing before the device is certainly free; empty when nothing is.
    `problem` is why kubelet did not answer.
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
    print(text, flush=True)  # at once, also into a pipe: somebody may be waiting for it
