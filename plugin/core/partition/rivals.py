"""Whether another program partitions the node too: NVIDIA's MIG Manager, by what it leaves."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from plugin.core.cluster import NodeMetadata, Pod

#: What MIG Manager reads and writes; both keys are fixed.
STATE_LABEL: Final = "nvidia.com/mig.config.state"
#: The GPU operator runs MIG Manager where this is true.
DEPLOY_LABEL: Final = "nvidia.com/gpu.deploy.mig-manager"
#: Of the pods of NVIDIA's own DaemonSets.
_APP, _MANAGER = "app", "nvidia-mig-manager"
#: As whom the API server knows this plugin, by the User-Agent of its requests.
_OURSELVES: Final = frozenset({"mig-device-plugin"})


def foreign_writers(node: NodeMetadata, label: str) -> tuple[str, ...]:
    """Field managers, other than this plugin, that wrote the label's present value."""
    return tuple(sorted(node.writers.get(label, frozenset()) - _OURSELVES))


def mig_manager(node: NodeMetadata, pods: Collection[Pod] | None) -> str:
    """Why MIG Manager seems to run on the node; empty if nothing says so. `pods` are those of the
    node, ``None`` where they cannot be listed. What it once wrote stays on the Node, so that counts
    only then.
    """
    if pods is not None:
        running = [
            f"{pod.namespace}/{pod.name}"
            for pod in pods
            if pod.labels.get(_APP) == _MANAGER and not pod.finished
        ]
        return f"pod {', '.join(sorted(running))} runs here" if running else ""
    deployed = node.labels.get(DEPLOY_LABEL, "")
    if deployed == "false":
        return ""
    if deployed:
        return f"the label {DEPLOY_LABEL} is {deployed}, and pods cannot be listed"
    writers = foreign_writers(node, STATE_LABEL)
    if STATE_LABEL in node.labels and writers:
        value = node.labels[STATE_LABEL]
        return f"{', '.join(writers)} has written {STATE_LABEL}={value}, and pods cannot be listed"
    return ""
