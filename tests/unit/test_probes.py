"""Health and readiness: views in, verdicts out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plugin.core.reasons import Code, Reason
from plugin.core.view import ResourceStatus, View
from plugin.web.health import HUNG_SECONDS, health, readiness

from .builders import mig_gpu, node, snapshot

ABSENT = Reason(Code.DRIVER_UNAVAILABLE, "no driver")
RESOURCE = "nvidia.com/mig-1g.5gb"
OPEN = ResourceStatus(RESOURCE, registered=True, registrations=1, stream_since=5.0)


def seen(*resources: ResourceStatus, **changes: Any) -> View:
    shot = snapshot(node(mig_gpu(0, "1g.5gb", "1g.5gb")))
    return View(
        now=10.0, started=1.0, snapshot=replace(shot, **changes), changed=2.0, resources=resources
    )


def empty(**changes: Any) -> View:
    return View(now=10.0, started=1.0, snapshot=replace(snapshot(node()), **changes), changed=2.0)


def test_a_daemon_that_runs_is_healthy_whatever_its_devices_and_kubelet_are() -> None:
    assert health(seen(driver_error=ABSENT)).good
    assert health(replace(seen(), driver_busy=HUNG_SECONDS)).good


def test_a_task_that_does_not_run_is_named() -> None:
    assert health(replace(seen(), stuck=("events", "probes"))).reasons == (
        "the task events does not run",
        "the task probes does not run",
    )


def test_a_driver_that_hangs_is_told() -> None:
    assert health(replace(seen(), driver_busy=31.2)).reasons == (
        "the driver has not come back from a call for 31 s",
    )
    assert health(replace(seen(), driver_busy=5.0), hung_seconds=4.0).reasons


def test_ready_with_a_stream_of_every_resource() -> None:
    assert readiness(seen(OPEN)).good


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        ((), f"{RESOURCE} is not registered with kubelet"),
        (
            (ResourceStatus("nvidia.com/gpu", registered=True, stream_since=5.0),),
            "is not registered",
        ),
        (
            (ResourceStatus(RESOURCE, registered=False, last_error="refused"),),
            "is not registered with kubelet: refused",
        ),
        ((replace(OPEN, stream_since=None),), f"kubelet has no stream of {RESOURCE} open"),
        ((replace(OPEN, registered=False),), "is not registered"),
    ],
)
def test_not_ready_while_a_resource_is_not_served(
    resources: tuple[ResourceStatus, ...], why: str
) -> None:
    (reason,) = readiness(seen(*resources)).reasons
    assert why in reason


def test_ready_with_nothing_to_advertise_when_the_driver_says_so() -> None:
    assert readiness(empty()).good


def test_not_ready_before_the_first_look_or_without_a_driver() -> None:
    assert not readiness(empty(generation=0)).good
    assert readiness(empty(driver_error=ABSENT)).reasons == ("no driver",)


def test_a_driver_that_was_lost_later_leaves_what_is_registered_ready() -> None:
    assert readiness(seen(OPEN, driver_error=ABSENT)).good
