"""Field selectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plugin.sim.apiserver.refusal import Refused

_TERM = re.compile(r"([^!=]+)(!=|==?)([^!=]*)")

Selector = tuple[tuple[str, bool, str], ...]

#: What each resource can be selected by.
FIELDS = {
    "nodes": ("metadata.name", "spec.unschedulable"),
    "pods": (
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "status.phase",
    ),
    "events": ("metadata.name", "metadata.namespace", "regarding.kind", "regarding.name", "reason"),
}


def parse(resource: str, text: str) -> Selector:
    """(field, equal, value) of each term; 400 for another field."""
    terms = []
    for term in filter(None, text.split(",")):
        match = _TERM.fullmatch(term)
        if match is None:
            raise Refused(400, f"invalid field selector: {term}")
        field, sign, value = match.groups()
        if field not in FIELDS[resource]:
            raise Refused(
                400,
                f'Unable to find "{resource}" that match label selector "", field selector '
                f'"{text}": "{field}" is not a known field selector',
            )
        terms.append((field, sign != "!=", value))
    return tuple(terms)


def matches(selector: Selector, document: Mapping[str, Any]) -> bool:
    return all((value_of(document, field) == value) is equal for field, equal, value in selector)


def value_of(document: Mapping[str, Any], field: str) -> str:
    """The text of a field; empty if it is unset."""
    found: Any = document
    for part in field.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, bool):
        return "true" if found else "false"
    return "" if found is None else str(found)
