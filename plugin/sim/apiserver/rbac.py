"""Who may do what: rules as in a ClusterRole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from plugin.sim.apiserver.refusal import Refused


class User(Struct, frozen=True):
    """``rules`` are a ClusterRole's."""

    name: str
    rules: Sequence[Mapping[str, Any]]


#: May do everything.
ADMIN = User("system:admin", [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])


class Attributes(Struct, frozen=True):
    """What a request is about; ``resource`` includes the subresource."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str


def check(user: User | None, asked: Attributes) -> None:
    """401 without a user, 403 if no rule allows it."""
    if user is None:
        raise Refused(401, "Unauthorized")
    if any(_allows(rule, asked) for rule in user.rules):
        return
    place = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    resource, _, sub = asked.resource.partition("/")
    named = f'{resource} "{asked.name}"' if asked.name else resource
    raise Refused(
        403,
        f'{named} is forbidden: User "{user.name}" cannot {asked.verb} resource '
        f'"{resource}{"/" + sub if sub else ""}" in API group "{asked.group}" {place}',
    )


def _allows(rule: Mapping[str, Any], asked: Attributes) -> bool:
    names = rule.get("resourceNames") or ()
    return (
        _among(rule.get("verbs", ()), asked.verb)
        and _among(rule.get("apiGroups", ()), asked.group)
        and _among(rule.get("resources", ()), asked.resource)
        and (not names or asked.name in names)
    )


def _among(values: Sequence[str], value: str) -> bool:
    return "*" in values or value in values
