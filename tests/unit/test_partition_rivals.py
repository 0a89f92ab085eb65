"""Whether MIG Manager runs on the node as well, from what the API server says."""

from __future__ import annotations

import pytest

from plugin.core.cluster import NodeMetadata, Pod, PodPhase
from plugin.core.partition.rivals import DEPLOY_LABEL, STATE_LABEL, foreign_writers, mig_manager

MANAGER = Pod("gpu", "mig-manager-x", "u", PodPhase.RUNNING, {"app": "nvidia-mig-manager"})
OTHER = Pod("gpu", "train", "v", PodPhase.RUNNING, {"app": "train"})
ENDED = Pod("gpu", "mig-manager-y", "w", PodPhase.FAILED, {"app": "nvidia-mig-manager"})


def node(*writers: str, **labels: str) -> NodeMetadata:
    keys = {"state": STATE_LABEL, "deploy": DEPLOY_LABEL}
    return NodeMetadata(
        "n",
        "u",
        "7",
        {keys[name]: value for name, value in labels.items()},
        writers={STATE_LABEL: frozenset(writers)},
    )


THEIRS = node("nvidia-mig-manager", state="rebooting")


@pytest.mark.parametrize(
    ("found", "pods", "expected"),
    [
        (node(), (MANAGER, OTHER), "pod gpu/mig-manager-x runs here"),
        # Where pods are known, what it once wrote does not count.
        (THEIRS, (), ""),
        (THEIRS, (OTHER, ENDED), ""),
        (
            THEIRS,
            None,
            f"nvidia-mig-manager has written {STATE_LABEL}=rebooting, and pods cannot be listed",
        ),
        (node("nvidia-mig-manager", state="success", deploy="false"), None, ""),
        (
            node("mig-device-plugin", deploy="true"),
            None,
            f"the label {DEPLOY_LABEL} is true, and pods cannot be listed",
        ),
        (node("mig-device-plugin", state="success"), None, ""),
        (node("kubectl-label"), None, ""),  # it is gone
        (node(), None, ""),
    ],
)
def test_what_says_so(found: NodeMetadata, pods: tuple[Pod, ...] | None, expected: str) -> None:
    assert mig_manager(found, pods) == expected


def test_writers_but_ourselves() -> None:
    found = node("b", "mig-device-plugin", "a")
    assert foreign_writers(found, STATE_LABEL) == ("a", "b")
    assert foreign_writers(found, "other") == ()
