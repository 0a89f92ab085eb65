"""Who holds devices, for commands that plan or change by themselves: asked as the daemon asks."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

from plugin import logs
from plugin.core.holders import Holdings
from plugin.core.settings import Settings
from plugin.partition.surroundings import ask_kubelet

#: What :func:`warning` says of holdings that are not known.
UNKNOWN = (
    "which pods hold devices is not known: every device counts as held, unless "
    "--partition-in-use=force; where no kubelet runs, say so with --kubelet-socket="
)


def asking(settings: Settings) -> Callable[[], Awaitable[Holdings | None]]:
    """Asks kubelet each time; ``None`` where no pod can hold a device."""
    if not settings.pod_resources_socket or not settings.kubelet_socket:
        return functools.partial(ask_kubelet, settings, None)
    logs.silence("plugin.kubelet.podresources")
    # gRPC takes longer to load than everything else here.
    from plugin.kubelet.podresources.observer import Observer  # noqa: PLC0415
    from plugin.kubelet.podresources.pods import PodFollower  # noqa: PLC0415

    return functools.partial(ask_kubelet, settings, PodFollower(Observer.of(settings)).ask)


def warning(holdings: Holdings | None) -> str:
    """Empty where it is known."""
    if holdings is None or (holdings.trusted and not holdings.silent):
        return ""
    return UNKNOWN
