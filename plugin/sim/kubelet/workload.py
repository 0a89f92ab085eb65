"""Pods that come and go as on a node in use: when one starts, on what, and when it ends."""

from __future__ import annotations

import random
from collections.abc import Mapping

from msgspec import Struct, field

#: About so much of the node is in use.
USED_SHARE = 0.5
#: How long a pod lives, in seconds.
SHORTEST, LONGEST = 6.0, 25.0

_NAMES = (("training", "train"), ("research", "notebook"), ("serving", "inference"))


class Start(Struct, frozen=True):
    """A pod that asks for one device; ``ends`` is when it is over."""

    namespace: str
    name: str
    resource: str
    ends: float


class Workload(Struct, frozen=True):
    """What runs: pod (``namespace/name``) → what it was started with."""

    running: Mapping[str, Start] = field(default_factory=dict)
    started: int = 0

    def due(self, now: float) -> tuple[Start, ...]:
        """Pods whose time is over."""
        return tuple(pod for pod in self.running.values() if pod.ends <= now)

    def next_start(
        self, now: float, allocatable: Mapping[str, int], rng: random.Random
    ) -> Start | None:
        """A pod to start, as long as less than the share is in use; on what is most free."""
        used = dict.fromkeys(allocatable, 0)
        for pod in self.running.values():
            used[pod.resource] = used.get(pod.resource, 0) + 1
        free = {
            resource: count - used[resource]
            for resource, count in allocatable.items()
            if used[resource] < count * USED_SHARE
        }
        if not free:
            return None
        resource = rng.choices(list(free), list(free.values()))[0]
        namespace, kind = rng.choice(_NAMES)
        return Start(
            namespace, f"{kind}-{self.started + 1}", resource, now + rng.uniform(SHORTEST, LONGEST)
        )

    def with_started(self, pod: Start) -> Workload:
        return Workload({**self.running, f"{pod.namespace}/{pod.name}": pod}, self.started + 1)

    def without(self, pod: Start) -> Workload:
        gone = f"{pod.namespace}/{pod.name}"
        return Workload({k: v for k, v in self.running.items() if k != gone}, self.started)
