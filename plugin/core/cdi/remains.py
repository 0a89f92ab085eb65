"""What of a specification on disk still holds, where no new one can be made or written."""

from __future__ import annotations

from plugin.core.cdi.names import ALL
from plugin.core.cdi.specification import Document, with_all


def remains(document: object, devices: list[Document]) -> Document | None:
    """The document without every device that is not among these, or is there with other nodes: such
    a node may belong to another device by now. ``None`` if nothing remains. The document may be
    anything.
    """
    if not isinstance(document, dict) or not isinstance(document.get("devices"), list):
        return None
    there = document["devices"]
    kept = [device for device in devices if device["name"] != ALL and device in there]
    return {**document, "devices": with_all(kept)} if kept else None
