"""The stand-in API server with the Node and the pods of a simulated node, and a kubeconfig file for
it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plugin.sim.apiserver.server import SimApiServer
from plugin.sim.apiserver.storage import Follower

#: The Node's name.
NODE = "gpu-1"
PARTITION_LABEL = "nvidia.com/mig.config"
CONDITION = "MigDevicesHealthy"


class StandInCluster:
    """Listens while entered. ``kubeconfig`` is a file in `folder`. With ``flags`` a daemon connects
    with it, follows the label, and writes labels and condition.
    """

    def __init__(self, folder: Path) -> None:
        self.server = SimApiServer()
        self.server.add_node(NODE)
        self.kubeconfig = folder / "kubeconfig"
        self.flags = (
            f"--kubeconfig={self.kubeconfig}",
            f"--node-name={NODE}",
            f"--partition-label={PARTITION_LABEL}",
            "--node-labels",
            f"--node-condition={CONDITION}",
        )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def __aenter__(self) -> Self:
        await self.server.back()
        self.kubeconfig.write_text(json.dumps(_kubeconfig(self.address)), encoding="utf-8")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.server.away()

    @property
    def node(self) -> Mapping[str, Any]:
        """The Node as clients see it."""
        return self.server.node(NODE)

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.node["metadata"]["labels"]
        return labels

    @property
    def condition(self) -> str:
        """The status of :data:`CONDITION`; empty if the Node has none."""
        conditions = self.node["status"]["conditions"]
        return next((str(each["status"]) for each in conditions if each["type"] == CONDITION), "")

    # ---- kubelet's part

    def publish(self, resources: Mapping[str, tuple[int, int]]) -> None:
        """Resource → (capacity, allocatable), in the Node's status."""
        status = {
            field: {resource: str(numbers[index]) for resource, numbers in resources.items()}
            for index, field in enumerate(("capacity", "allocatable"))
        }
        self.server.change("nodes", NODE, {"status": status})

    def pod_started(self, namespace: str, name: str) -> None:
        self.server.add_pod(NODE, name, namespace=namespace)

    def pod_ended(self, namespace: str, name: str) -> None:
        self.server.remove_pod(name, namespace)

    def must_end(self, namespace: str, name: str) -> bool:
        """Whether the pod was evicted or deleted."""
        stored = self.server.storage.get("pods", namespace, name)
        return stored is None or "deletionTimestamp" in stored.document["metadata"]

    async def wait_for(self, predicate: Callable[[], bool], seconds: float) -> None:
        """Wait until it holds, asked after every change of the Node. Raises TimeoutError."""
        follower = Follower("nodes", "", ())
        self.server.storage.follow(follower)
        try:
            async with asyncio.timeout(seconds):
                while not predicate():
                    await follower.queue.get()
        finally:
            self.server.storage.unfollow(follower)


def _kubeconfig(address: str) -> dict[str, Any]:
    """Also kubectl's form. Everybody may do everything."""
    name = "stand-in"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": {"server": address}}],
        "users": [{"name": name, "user": {"token": "any"}}],
    }
