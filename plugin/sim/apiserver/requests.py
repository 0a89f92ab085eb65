"""Requests: from path and method to what is asked of which object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from plugin.sim.apiserver import events
from plugin.sim.apiserver.rbac import Attributes
from plugin.sim.apiserver.refusal import Refused

_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>events\.k8s\.io)/v1)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>nodes|pods|events)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>status|eviction))?)?"
)
KINDS = {"nodes": "Node", "pods": "Pod", "events": "Event"}
NAMESPACED = {"pods", "events"}
_TRUE = {"true", "1"}


class Asked(Struct, frozen=True):
    """Header names are lower case; ``api`` is the apiVersion of the path."""

    what: Attributes
    api: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def resource(self) -> str:
        """Without the subresource."""
        return self.what.resource.partition("/")[0]

    @property
    def subresource(self) -> str:
        return self.what.resource.partition("/")[2]

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "application/json").partition(";")[0].strip()

    @property
    def only_metadata(self) -> bool:
        """Whether PartialObjectMetadata is wanted rather than the object: the first form of the
        Accept header that there is; 406 without any.
        """
        of_list = "List" if self.what.verb == "list" else ""
        partial = {f"as=PartialObjectMetadata{of_list}", "v=v1", "g=meta.k8s.io"}
        for form in self.headers.get("accept", "").split(","):
            parameters = {part.strip() for part in form.split(";")[1:]}
            if not any(part.startswith("as=") for part in parameters):
                return False
            if partial <= parameters:
                return True
        raise Refused(
            406,
            "only the following media types are accepted: application/json",
            reason="NotAcceptable",
        )

    def document(self) -> Any:
        """The body; 400 for what is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"error decoding: {error}") from None


def parse(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Asked:
    """404 for an unknown path, 405 for a method that the resource lacks."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    match = _PATH.fullmatch(parts.path)
    if match is None:
        raise Refused(404, "the server could not find the requested resource")
    resource, sub = match["resource"], match["sub"] or ""
    namespace, name = (unquote(match[part] or "") for part in ("namespace", "name"))
    if (match["group"] and resource != "events") or (namespace and resource not in NAMESPACED):
        raise Refused(404, "the server could not find the requested resource")
    if name and not namespace and resource in NAMESPACED:
        raise Refused(404, "the server could not find the requested resource")
    verb = _verb(method, name, query)
    full = f"{resource}/{sub}" if sub else resource
    if (full, verb) not in VERBS:
        raise Refused(405, "the server does not allow this method on the requested resource")
    what = Attributes(verb, match["group"] or "", full, namespace, name)
    return Asked(what, events.NEW if match["group"] else "v1", query, headers, body)


VERBS = {
    *(("nodes", verb) for verb in ("get", "list", "watch", "patch")),
    *(("nodes/status", verb) for verb in ("get", "patch")),
    *(("pods", verb) for verb in ("get", "list", "watch", "delete")),
    ("pods/eviction", "create"),
    *(("events", verb) for verb in ("get", "list", "watch", "create", "patch")),
}


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method == "GET":
        if query.get("watch", "false") in _TRUE and not name:
            return "watch"
        return "get" if name else "list"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}.get(method, "")
