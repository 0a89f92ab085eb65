"""Discovery: which resources there are, as kubectl asks before anything else."""

from __future__ import annotations

from typing import Any

from plugin.sim.apiserver.requests import KINDS, NAMESPACED, VERBS

_EVENTS = {"groupVersion": "events.k8s.io/v1", "version": "v1"}
_SHORT = {"nodes": ["no"], "pods": ["po"], "events": ["ev"]}


def document(path: str) -> dict[str, Any] | None:
    """The answer to a GET of this path; ``None`` if it is not one of discovery."""
    match path.rstrip("/"):
        case "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0-stand-in"}
        case "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        case "/apis":
            group = {"name": "events.k8s.io", "versions": [_EVENTS], "preferredVersion": _EVENTS}
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
        case "/api/v1":
            return _resources("v1", *KINDS)
        case "/apis/events.k8s.io/v1":
            return _resources("events.k8s.io/v1", "events")
        case _:
            return None


def _resources(version: str, *names: str) -> dict[str, Any]:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": name,
                "singularName": KINDS[name].lower(),
                "namespaced": name in NAMESPACED,
                "kind": KINDS[name],
                "verbs": sorted(verb for resource, verb in VERBS if resource == name),
                "shortNames": _SHORT[name],
            }
            for name in names
        ],
    }
