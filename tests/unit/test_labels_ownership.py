"""Which labels of a Node are written, removed, and left alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugin.core.cluster import NodeMetadata
from plugin.core.labels.node import Values
from plugin.core.labels.ownership import RECORD, owned, patch

NFD = "nfd.node.kubernetes.io/feature-labels"
keys = st.sampled_from(
    [
        f"nvidia.com/{name}"
        for name in ("gpu.count", "gpu.product", "mig-1g.5gb.count", "cuda.driver.rev")
    ]
)
foreign = st.sampled_from(["nvidia.com/mig.config", "nvidia.com/gpu.deploy.driver", "zone"])
values = st.sampled_from(["1", "2", ""])
wanted = st.dictionaries(keys, values)
labels = st.dictionaries(keys | foreign, values)


def applied(node: NodeMetadata, wanted: Values) -> NodeMetadata:
    found = patch(node, wanted)
    merged = {**node.labels, **found.labels}
    notes = {**node.annotations, **found.annotations}
    return NodeMetadata(
        "n",
        "u",
        "2",
        {key: value for key, value in merged.items() if value is not None},
        {key: value for key, value in notes.items() if value is not None},
    )


@given(labels, wanted, wanted, st.lists(keys))
def test_after_any_history_ours_are_as_wanted_and_others_as_before(
    before: dict[str, str], first: dict[str, str], second: dict[str, str], theirs: list[str]
) -> None:
    node = NodeMetadata("n", "u", "1", before)
    node = applied(applied(node, first), second)
    assert owned(node) == second
    assert not patch(node, second)
    never = {key: value for key, value in before.items() if key not in first | second}
    assert never.items() <= node.labels.items()
    # Feature Discovery takes some over.
    notes = {**node.annotations, f"x.{NFD}": ",".join(theirs)}
    node = NodeMetadata("n", "u", "1", node.labels, notes)
    for changed in ({}, {key: f"{value}x" for key, value in second.items()}):
        after = applied(node, changed)
        for key in theirs:
            assert after.labels.get(key) == node.labels.get(key)
        assert set(patch(node, changed).left) == changed.keys() & set(theirs)
        assert not patch(after, changed)
    # Switched off, nothing of ours is left but what they have taken over.
    end = applied(NodeMetadata("n", "u", "1", node.labels, node.annotations), {})
    assert end.labels.keys() & second.keys() <= set(theirs)
    assert RECORD not in end.annotations


@given(st.text(max_size=60))
def test_an_edited_record_removes_nothing_that_was_never_ours(text: str) -> None:
    others = {
        "nvidia.com/mig.config": "x",
        "nvidia.com/mig-foo": "x",
        "nvidia.com/gpu.deploy.driver": "true",
        "nvidia.com/gpu.present": "true",
        "zone": "a",
    }
    names = "mig.config,mig-foo,gpu.deploy.driver,gpu.present,zone,../zone"
    notes = {RECORD: f"{text},{names}"}
    assert applied(NodeMetadata("n", "u", "1", others, notes), {}).labels == others
