"""Whatever the API server does instead of answering: an outcome for each, and never a busy loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest

from plugin.cluster.client import ApiClient
from plugin.cluster.credentials import Fixed, Server
from plugin.cluster.failures import Cause
from plugin.cluster.http import Limits, Transport
from plugin.core.cluster import ConditionStatus, NodeCondition, NodeMetadata, Pod
from plugin.errors import ClusterError, ClusterRefused, ClusterUnreachable
from plugin.sim.apiserver.faults import Fault, How
from plugin.sim.apiserver.rbac import ADMIN
from plugin.sim.apiserver.refusal import Refused
from plugin.sim.apiserver.server import SimApiServer

from .clock import virtual
from .subject import NODE, client_of, happening, talking

Request = Callable[[ApiClient], Awaitable[object]]

CONDITION = NodeCondition("X", ConditionStatus.TRUE, "Ok", "", 1e9, 1e9)
REQUESTS: dict[str, Request] = {
    "get": lambda client: client.get_node(),
    "labels": lambda client: client.patch_metadata(NodeMetadata(NODE, "u", "1"), labels={"a": "b"}),
    "condition": lambda client: client.put_condition(CONDITION),
    "event": lambda client: client.create_event(happening()),
    "series": lambda client: client.repeat_event(happening(), 2, 1e9),
    "eviction": lambda client: client.evict(Pod("default", "train", "u")),
}


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "plugin.cluster")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(how=How.CLOSED), Cause.RESET),
        (Fault(how=How.BROKEN), Cause.RESET),
        (Fault(how=How.SILENT), Cause.TIMEOUT),
        (Fault(how=How.NOT_HTTP), Cause.INVALID),
        (Fault(how=How.ENDLESS), Cause.TOO_LARGE),
        (Fault(delay=60.0), Cause.TIMEOUT),
    ],
    ids=lambda value: value.value if isinstance(value, Cause) else "",
)
@virtual
async def test_no_usable_answer(request_: Request, fault: Fault, cause: Cause) -> None:
    fault = Fault(how=fault.how, delay=fault.delay)
    async with talking() as talk:
        talk.server.faults.plan(fault)
        client = client_of(talk.server, body_bytes=300_000)
        with pytest.raises(ClusterUnreachable) as caught:
            await request_(client)
        assert caught.value.cause is cause
        assert client.traffic.away_since is not None
        assert [code for *_, code in client.traffic.requests] == [cause]
        # The same connection is not used again, and what works ends the outage.
        talk.server.faults.clear()
        await client.get_node()
        assert client.traffic.away_since is None
        client.close()


@virtual
async def test_an_answer_that_is_no_json() -> None:
    async with talking() as talk:
        talk.server.faults.plan(Fault(how=How.GARBAGE))
        with pytest.raises(ClusterUnreachable) as caught:
            await talk.client.get_node()
        assert caught.value.cause is Cause.INVALID


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 415, 422, 429, 500, 502, 503, 504])
@virtual
async def test_every_refusal_has_its_code_and_reason(request_: Request, code: int) -> None:
    async with talking() as talk:
        refusal = Refused(code, "no", retry_after="7" if code == 429 else None)
        talk.server.faults.plan(Fault(refusal=refusal))
        (error,) = await asyncio.gather(request_(talk.client), return_exceptions=True)
        if isinstance(error, ClusterRefused):
            assert (error.code, error.reason) == (code, refusal.reason)
            assert error.retry_after == (7.0 if code == 429 else None)
        else:  # an answer, as 404 to an eviction is
            assert not isinstance(error, BaseException)
            assert code in {403, 404, 409}
        concerns_all = code in {429, 500, 502, 503, 504}
        assert (talk.client.traffic.away_since is not None) is concerns_all


async def persistently(client: ApiClient, request: Request) -> None:
    """A loop that asks again at once after every error."""
    while True:
        with contextlib.suppress(ClusterError):
            await request(client)
            return


FAULTS = {
    "away": None,
    "500": Fault(refusal=Refused(500, "boom")),
    "503": Fault(refusal=Refused(503, "starting")),
    "429": Fault(refusal=Refused(429, "too many", retry_after="1")),
    "429-without": Fault(refusal=Refused(429, "too many")),
    "closed": Fault(how=How.CLOSED),
    "silent": Fault(how=How.SILENT),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@virtual
async def test_an_outage_of_hours(caplog: pytest.LogCaptureFixture, fault: Fault | None) -> None:
    async with talking() as talk:
        if fault is None:
            await talk.server.away()
        else:
            fault = talk.server.faults.plan(
                Fault(refusal=fault.refusal, how=fault.how, delay=fault.delay)
            )
        asking = [
            asyncio.create_task(persistently(talk.client, request))
            for name, request in REQUESTS.items()
            if name != "series"  # of an Event that may not exist yet
        ]
        await asyncio.sleep(600)
        before = sum(talk.client.traffic.requests.values())
        assert before <= 5 + 20, "each once, then together with growing pauses"
        await asyncio.sleep(2 * 3600)
        tries = sum(talk.client.traffic.requests.values()) - before
        assert 40 <= tries <= 2 * 60
        assert messages(caplog) == ["API server does not answer"]
        assert talk.client.traffic.away_since is not None

        talk.server.faults.clear()
        if fault is None:
            await talk.server.back()
        async with asyncio.timeout(200):
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(10):  # the others need not wait for their turn any more
            await asyncio.gather(*asking)
        assert messages(caplog) == ["API server does not answer", "API server answers again"]
        # By the loop's clock, which here is far from the wall clock's.
        seconds = vars(caplog.records[-1])["seconds"]
        assert 600 + 2 * 3600 <= seconds <= 600 + 2 * 3600 + 210
        assert talk.client.traffic.away_since is None
        assert "a" in talk.server.node(NODE)["metadata"]["labels"]


@pytest.mark.parametrize("code", [401, 403, 404, 409, 410, 422])
@virtual
async def test_a_refusal_of_an_hour_of_one_request(
    caplog: pytest.LogCaptureFixture, code: int
) -> None:
    async with talking() as talk:
        talk.server.faults.plan(Fault("patch", "nodes", refusal=Refused(code, "no")))
        asking = asyncio.create_task(persistently(talk.client, REQUESTS["labels"]))
        for _ in range(60):
            await asyncio.sleep(60)
            await talk.client.put_condition(CONDITION)  # is not held up
        tried = sum(
            n
            for (verb, what, _), n in talk.client.traffic.requests.items()
            if (verb, what) == ("patch", "nodes")
        )
        assert tried <= (2 if code == 401 else 1) * (60 + 15)
        assert messages(caplog) == ["API server refused a request"]
        assert talk.client.traffic.away_since is None
        talk.server.faults.clear()
        async with asyncio.timeout(121):
            await asking


@virtual
async def test_one_failure_is_no_outage_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with talking() as talk:
        talk.server.faults.plan(Fault(times=1, how=How.CLOSED))
        await persistently(talk.client, REQUESTS["get"])
        assert messages(caplog) == []


@virtual
async def test_while_one_kind_of_request_fails_the_others_are_made() -> None:
    async with talking() as talk:
        talk.server.faults.plan(Fault("patch", "nodes", refusal=Refused(500, "webhook failed")))
        asking = asyncio.create_task(persistently(talk.client, REQUESTS["labels"]))
        began = asyncio.get_running_loop().time()
        for _ in range(50):
            await asyncio.sleep(30)
            async with asyncio.timeout(130):
                await talk.client.put_condition(CONDITION)
        spent = asyncio.get_running_loop().time() - began
        assert spent < 50 * 30 + 100, "a pause of the outage at most now and then"
        asking.cancel()


@pytest.mark.parametrize("seconds", [1.0, 40.0, 600.0])
@virtual
async def test_retry_after_is_obeyed(seconds: float) -> None:
    async with talking() as talk:
        refusal = Refused(429, "later", retry_after=f"{seconds:.0f}")
        talk.server.faults.plan(Fault(times=1, refusal=refusal))
        loop = asyncio.get_running_loop()
        with pytest.raises(ClusterRefused):
            await talk.client.get_node()
        began = loop.time()
        await talk.client.may_ask()
        await talk.client.put_condition(CONDITION)  # flow control concerns every request
        assert max(1.0, seconds) <= loop.time() - began <= max(2.0, seconds)


@virtual
async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async with talking() as talk:
        await talk.client.get_node()
        await talk.client.get_node()
        assert talk.server.connections == 1
        await talk.server.away()
        await talk.server.back()
        await talk.client.get_node()
        assert set(talk.client.traffic.requests) == {("get", "nodes", "200")}
        await asyncio.sleep(25)
        assert talk.server.connections == 0, "not kept without requests"


@virtual
async def test_a_token_that_expires_is_read_again() -> None:
    tokens = iter(["old", "old", "new", "new"])

    class Rotating(Fixed, frozen=True):
        def token(self, *, again: bool = False) -> str | None:
            del again
            return next(tokens)

    async with SimApiServer(users={"old": ADMIN, "new": ADMIN}) as server:
        server.add_node(NODE)
        credentials = Rotating(Server("127.0.0.1", server.port, tls=False))
        client = ApiClient(NODE, credentials)
        await client.get_node()
        del server.users["old"]
        await client.get_node()
        assert dict(client.traffic.requests) == {
            ("get", "nodes", "200"): 2,
            ("get", "nodes", "401"): 1,
        }
        client.close()


@virtual
async def test_nobody_listens() -> None:
    async with SimApiServer() as server:
        port = server.port
    credentials = Fixed(Server("127.0.0.1", port, tls=False))
    client = ApiClient(NODE, credentials, transport=Transport(credentials, Limits()))
    with pytest.raises(ClusterUnreachable) as caught:
        await client.get_node()
    assert caught.value.cause is Cause.REFUSED
    assert "kube-proxy" in caught.value.fix
