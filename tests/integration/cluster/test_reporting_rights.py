"""Each feature needs all the rules that the document has for it, and no others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.core import state as steps
from plugin.core.settings import MigStrategy, Settings
from plugin.core.view import Holder
from tests.unit.state_steps import LEFT, ON_FIRST, ON_LEFT, running

from .clock import virtual
from .reported import FLAGS, granted, reported
from .subject import NODE
from .test_reporting_outages import ALL, SPEC, TYPE, changed, registered

OFF = Settings(mig_strategy=MigStrategy.MIXED)


@pytest.mark.parametrize("field", FLAGS)
@virtual
async def test_the_rules_of_a_feature_are_those_that_it_uses(tmp_path: Path, field: str) -> None:
    settings = replace(OFF, **{field: getattr(ALL, field)})
    async with reported(tmp_path, running(settings), spec=SPEC) as subject, subject.running():
        subject.server.add_pod(NODE, "train")
        subject.holders = {LEFT.uuid: (Holder("default", "train", "x"),)}
        registered(subject)
        await subject.becomes(lambda: subject.server.journal.of("watch"))
        changed(subject)
        for second in range(300):
            subject.take(steps.happened(subject.state, [ON_LEFT, ON_FIRST], second + 2.0))
            await asyncio.sleep(1)
        used = {
            (each.asked.group, each.asked.resource, each.asked.verb)
            for each in subject.server.journal.requests
        }
        assert used == granted(FLAGS[field])
        assert {each.status for each in subject.server.journal.requests} <= {0, 200, 201, 409}
        assert subject.status.problems == ()
    assert bool(subject.condition(TYPE)) is (field == "node_condition")
