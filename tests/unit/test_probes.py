"""Health and readiness: views in, verdicts out."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from plugin.core.reasons import Code, Reason
from plugin.core.view import ClusterStatus, ResourceStatus, View
from plugin.web.health import SLOW_SECONDS, health, readiness

from .builders import mig_gpu, node, snapshot

ABSENT = Reason(Code.DRIVER_UNAVAILABLE, "no driver")
RESOURCE = "nvidia.com/mig-1g.5gb"
NOW = 1_000.0
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
    assert health(replace(seen(), driver_busy=1000.0)).good


def test_a_task_that_does_not_run_is_named() -> None:
    assert health(replace(seen(), stuck=("events", "probes"))).reasons == (
        "the task events does not run",
        "the task probes does not run",
    )


def test_a_driver_that_hangs_is_told_and_no_reason_to_start_anew() -> None:
    view = replace(seen(OPEN), driver_busy=31.2)
    assert health(view).good
    assert readiness(view).good
    assert readiness(view).notes == ("the driver has not come back from a call for 31 s",)
    assert readiness(replace(view, driver_busy=SLOW_SECONDS)).notes == ()


def test_what_keeps_no_device_from_use_is_a_note() -> None:
    view = replace(seen(OPEN), notes=("the features file cannot be written",))
    assert readiness(view).good
    assert readiness(view).notes == view.notes


def test_what_the_api_server_refuses_and_an_outage_are_notes() -> None:
    status = ClusterStatus(
        problems=("node labels: patch nodes: 403",),
        away_since=NOW - 90.0,
        away_because="/token cannot be read: No such file",
    )
    view = replace(seen(OPEN), now=NOW, cluster=status)
    assert readiness(view).good
    assert readiness(view).notes == (
        "node labels: patch nodes: 403",
        "the API server has not answered for 90 s: /token cannot be read: No such file",
    )
    assert readiness(replace(view, cluster=ClusterStatus())).notes == ()


def test_gpus_that_hang_or_are_not_watched_are_told() -> None:
    hung, unwatched = (
        replace(mig_gpu(0, "1g.5gb"), hung=True, error="GPU 0 does not answer"),
        mig_gpu(1, "1g.5gb"),
    )
    inventory = replace(node(hung, unwatched), unreadable={2: "GPU 2 hangs"}, hung=frozenset({2}))
    why = {unwatched.uuid: Reason(Code.UNWATCHED, "no permission")}
    view = seen(OPEN, inventory=inventory, unwatched=why)
    assert readiness(view).good
    assert readiness(view).notes == (
        "GPU 0 does not answer",
        "events of GPU 1 are not watched: no permission",
        "GPU 2 hangs",
    )


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
    assert readiness(seen(OPEN, driver_error=ABSENT)).notes == ("no driver",)
