"""Every label is a valid one, whatever the node is."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugin.core.inventory.model import Gpu, Inventory, MigMode
from plugin.core.settings import MigStrategy, Settings, SharedResource, Sharing, SingleResource

from .builders import gpu, mig_device, node
from .labelled import GPU, ONE, UNREAD, of

KEY = re.compile(r"nvidia\.com/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", re.ASCII)

texts = st.text(max_size=90) | st.text("Aa1-_. ()", max_size=90)
profiles = st.sampled_from(["1g.5gb", "1c.2g.10gb", "1g.5gb+me", "1g.24gb-me"]) | texts


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    devices = [
        mig_device(index, start, draw(profiles), multiprocessors=draw(st.integers(0, 200)))
        for start in range(draw(st.integers(0, 3)))
    ]
    changes: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {
                "product": texts,
                "memory_mib": st.integers(0, 2**40),
                "compute_capability": st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99)),
                "pci_class": st.none() | st.integers(0, 2**32),
                "mig": st.none() | st.builds(MigMode, st.booleans(), st.booleans()),
                "mig_unknown": st.none() | st.just(UNREAD),
                "error": st.none() | texts,
            }
        )
    )
    return replace(gpu(index, *devices), **changes)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    found = tuple(draw(gpus(index)) for index in range(draw(st.integers(0, 4))))
    return replace(
        node(*found),
        driver_version=draw(texts),
        machine=draw(texts),
        cuda_version=draw(st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99))),
        unreadable=draw(st.dictionaries(st.integers(0, 6), texts, max_size=2)),
    )


sharings = st.lists(
    st.builds(SharedResource, st.sampled_from([GPU, ONE]), st.integers(1, 9)), max_size=2
).map(lambda entries: Sharing(tuple(entries)))
settings = st.builds(
    Settings,
    mig_strategy=st.sampled_from(MigStrategy),
    single_resource=st.sampled_from(SingleResource),
    sharing=sharings,
)


@given(inventories(), settings)
def test_every_label_is_valid(inventory: Inventory, chosen: Settings) -> None:
    for key, value in of(inventory, chosen).items():
        assert KEY.fullmatch(key), key
        assert VALUE.fullmatch(value), (key, value)
