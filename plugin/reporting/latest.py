"""The own Node as far as it is known: what was watched, or the newer answer to a request."""

from __future__ import annotations

from plugin.core.cluster import Collection, NodeMetadata, number
from plugin.reporting.standing import node_of


class Latest:
    """After a request, its answer is newer than what is watched."""

    def __init__(self) -> None:
        self._answer: tuple[int, NodeMetadata] | None = None

    def answered(self, generation: int, answer: NodeMetadata) -> None:
        """`generation` is that of what was watched when the request was made."""
        self._answer = generation, answer

    def node(self, known: Collection[NodeMetadata]) -> NodeMetadata | None:
        node = node_of(known)
        if self._answer is None:
            return node
        generation, answer = self._answer
        if known.generation == generation or (node is not None and _is_older(node, answer)):
            return answer
        self._answer = None
        return node


def _is_older(node: NodeMetadata, answer: NodeMetadata) -> bool:
    """Whether the watch has yet to show what the answer had. Versions are numbers that grow; one
    that is none says nothing.
    """
    known, newer = number(node.version), number(answer.version)
    if node.uid != answer.uid or known is None or newer is None:
        return False
    return known < newer
