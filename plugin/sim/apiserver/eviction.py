"""Evictions and disruption budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.storage import Storage, Stored


class Budget(Struct):
    """A PodDisruptionBudget: how many of the pods with these labels may still be disrupted.
    ``observed`` is false until its controller has seen it.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    allowed: int
    observed: bool = True


def evict(
    storage: Storage, budgets: list[Budget], namespace: str, name: str, body: Mapping[str, Any]
) -> Stored:
    """The pod, now being deleted. Answers as the registry of pods does."""
    if body.get("kind") != "Eviction" or body.get("apiVersion") not in {
        "policy/v1",
        "policy/v1beta1",
    }:
        raise Refused(400, "the object provided is unrecognized (must be of type Eviction)")
    metadata = body.get("metadata") or {}
    if metadata.get("name", name) != name or metadata.get("namespace", namespace) != namespace:
        raise Refused(400, "name in URL does not match name in Eviction object")
    pod = storage.get("pods", namespace, name)
    if pod is None:
        raise Refused(404, f'pods "{name}" not found')
    options = body.get("deleteOptions") or {}
    wanted = (options.get("preconditions") or {}).get("uid")
    uid = pod.document["metadata"]["uid"]
    if wanted is not None and wanted != uid:
        raise Refused(
            409,
            f'Operation cannot be fulfilled on Pod "{name}": the UID in the precondition '
            f"({wanted}) does not match the UID in record ({uid}). The object might have been "
            "deleted and then recreated",
        )
    if not _unbound(pod):
        _spend(budgets, pod)
    return _deleting(storage, pod, options.get("gracePeriodSeconds", 30))


def _unbound(pod: Stored) -> bool:
    """Pending, finished and already deleting pods skip budgets."""
    phase = (pod.document.get("status") or {}).get("phase")
    return (
        phase in {"Pending", "Succeeded", "Failed"}
        or "deletionTimestamp" in pod.document["metadata"]
    )


def _spend(budgets: list[Budget], pod: Stored) -> None:
    metadata = pod.document["metadata"]
    labels = metadata.get("labels") or {}
    matching = [
        budget
        for budget in budgets
        if budget.namespace == metadata["namespace"] and budget.labels.items() <= labels.items()
    ]
    if len(matching) > 1:
        raise Refused(
            500,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does "
            "not support.",
            reason="",
        )
    for budget in matching:
        cause = {"reason": "DisruptionBudget"}
        text = "Cannot evict pod as it would violate the pod's disruption budget."
        if not budget.observed:
            cause["message"] = f"The disruption budget {budget.name} is still being processed"
            raise Refused(429, text, causes=[cause], retry_after="10")
        if budget.allowed <= 0:
            cause["message"] = f"The disruption budget {budget.name} needs 1 healthy pods and has 1"
            raise Refused(429, text, causes=[cause])
        budget.allowed -= 1


def _deleting(storage: Storage, pod: Stored, grace: int) -> Stored:
    metadata = pod.document["metadata"]
    if "deletionTimestamp" in metadata:
        return pod
    marks = {"deletionTimestamp": storage.now(), "deletionGracePeriodSeconds": grace}
    return storage.put("pods", {**pod.document, "metadata": metadata | marks})
