"""Events about partitioning, on the Node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .clock import virtual
from .partitioned import partitioned
from .subject import NODE


@virtual
async def test_what_a_label_brings_about(tmp_path: Path) -> None:
    async with partitioned(tmp_path, events=True) as subject:
        async with subject.running():
            subject.label("all-balanced")
            await subject.ends("success", "all-balanced")
            await subject.becomes(lambda: len(subject.server.events()) >= 3)
            subject.label("all-balanecd")
            await subject.ends("failed", "all-balanecd")
            # The daemon looks again each minute, and finds the same.
            await asyncio.sleep(600)
            found = {each["reason"]: each for each in subject.server.events()}
            assert set(found) == {
                "GeometryChanged",
                "PartitioningStarted",
                "PartitioningSucceeded",
                "UnknownMigConfiguration",
            }
            assert {each["regarding"]["name"] for each in found.values()} == {NODE}
            unknown = found["UnknownMigConfiguration"]
            assert unknown["type"] == "Warning"
            assert "did you mean all-balanced? The choices are all-1g.10gb" in unknown["note"]
            # That is ordered again, and applied.
            subject.label("all-balanced")
            await subject.becomes(lambda: len(subject.server.events()) == 5)
        # What was applied before the start is no news.
        async with subject.running():
            await subject.ends("success", "all-balanced")
            await asyncio.sleep(600)
            assert len(subject.server.events()) == 5
