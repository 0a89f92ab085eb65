"""``cordon``, ``uncordon``, ``drain``, ``health clear`` and ``sim``: commands to the running
daemon.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugin.control.client import ask
from plugin.core.advertise.listed import device_uuid
from plugin.core.settings import Settings
from plugin.errors import ConfigError, KubeletError
from plugin.kubelet.podresources.client import Holders, list_holders

FREE, NOT_FREE = 0, 1

#: Between two questions to kubelet, which answers at most 100 a second to all who ask.
ASK_SECONDS = 0.5
#: So many unanswered questions in a row are no hiccup of kubelet's.
UNANSWERED = 3


def mark(socket: str, verb: str, target: str) -> int:
    """Have the daemon cordon, uncordon or clear a device, and print what it did."""
    _tell(ask(socket, verb, target))
    return 0


def simulate(socket: str, verb: str, arguments: Sequence[str]) -> int:
    """Have something happen on a simulated daemon's node."""
    _tell(ask(socket, "sim", verb, *arguments))
    return 0


def drain(settings: Settings, target: str, seconds: float) -> int:
    """Cordon a device, then wait until no pod holds it, for at most `seconds` (0: without end).

    Returns 0 when it is free and 1 when it is not by then. Raises ControlError, or KubeletError
    when kubelet does not say; the device stays cordoned in each case.
    """
    if not settings.pod_resources_socket:
        raise ConfigError(
            "--pod-resources-socket: '' is not valid for drain; choose kubelet's, which knows "
            "the pods"
        )
    done = ask(settings.control_socket, "cordon", target)
    _tell(done)
    return asyncio.run(
        _wait_until_free(done["devices"], Path(settings.pod_resources_socket), seconds)
    )


async def _wait_until_free(devices: Sequence[str], pod_resources: Path, seconds: float) -> int:
    begun = time.monotonic()
    told: str | None = None
    unanswered = 0
    while True:
        try:
            waiting = pods_on(devices, await list_holders(pod_resources))
            unanswered = 0
        except KubeletError as error:
            unanswered += 1
            if unanswered == UNANSWERED:
                raise
            words = f"not known yet: {error}"
        else:
            if not waiting:
                _say("drained: no pod holds it")
                return FREE
            words = (
                f"waiting for {len(waiting)} container{'s' * (len(waiting) > 1)}: "
                f"{', '.join(waiting)}"
            )
        if words != told:
            _say(words)
            told = words
        left = begun + seconds - time.monotonic() if seconds else ASK_SECONDS
        if left <= 0:
            _say(
                f"not drained within {seconds:g} s; it stays cordoned, and `uncordon` puts it "
                "back into service"
            )
            return NOT_FREE
        await asyncio.sleep(min(left, ASK_SECONDS))


def pods_on(devices: Sequence[str], holders: Holders) -> list[str]:
    """Containers that hold one of these UUIDs, or a share of it, in words and in order."""
    found = {
        holder for id_, known in holders.items() if device_uuid(id_) in devices for holder in known
    }
    return [str(holder) for holder in sorted(found)]


def _tell(done: dict[str, Any]) -> None:
    _say(done["text"])
    if done.get("warning"):
        print(f"mig-device-plugin: {done['warning']}", file=sys.stderr)


def _say(text: str) -> None:
    print(text, flush=True)  # at once, also into a pipe: somebody may be waiting for it
