"""The stand-in API server says what it serves, so that kubectl works with it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from .clock import virtual
from .peer import JSON, NODE, serving

KUBECTL = shutil.which("kubectl")
TABLE = f"{JSON};as=Table;v=v1;g=meta.k8s.io"
METADATA = f"{JSON};as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


@virtual
async def test_what_is_listed_is_served() -> None:
    async with serving() as peer:
        _, versions = await peer.ask("GET", "/api?timeout=32s")
        _, groups = await peer.ask("GET", "/apis")
        roots = [f"/api/{version}" for version in versions["versions"]]
        roots += [
            f"/apis/{version['groupVersion']}"
            for group in groups["groups"]
            for version in group["versions"]
        ]
        assert roots == ["/api/v1", "/apis/events.k8s.io/v1"]
        found = {}
        for root in roots:
            _, listed = await peer.ask("GET", root)
            for resource in listed["resources"]:
                status, answer = await peer.ask("GET", f"{root}/{resource['name']}")
                assert (status, answer["kind"]) == (200, f"{resource['kind']}List")
                found[root, resource["name"]] = set(resource["verbs"])
        assert found["/api/v1", "nodes"] == {"get", "list", "watch", "patch"}
        assert found.keys() == {
            *(("/api/v1", name) for name in ("nodes", "pods", "events")),
            ("/apis/events.k8s.io/v1", "events"),
        }
        assert (await peer.ask("POST", "/api", {}))[0] == 404
        assert (await peer.ask("GET", "/apis/apps/v1"))[0] == 404


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        (JSON, 200, "Node"),
        ("*/*", 200, "Node"),
        (METADATA, 200, "PartialObjectMetadata"),
        (f"{METADATA}, {JSON}", 200, "PartialObjectMetadata"),
        (f"{TABLE},{JSON}", 200, "Node"),
        (f"{TABLE},{METADATA}", 200, "PartialObjectMetadata"),
        (TABLE, 406, "Status"),
        (f"{JSON};as=PartialObjectMetadata;v=v1", 406, "Status"),
    ],
)
@virtual
async def test_the_first_form_that_there_is_is_sent(accept: str, status: int, kind: str) -> None:
    async with serving() as peer:
        code, answer = await peer.ask("GET", NODE, Accept=accept)
        assert (code, answer["kind"]) == (status, kind)


@pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")
@pytest.mark.asyncio
async def test_kubectl_labels_the_node_and_waits_for_the_answer(tmp_path: Path) -> None:
    async with serving() as peer:

        async def kubectl(*arguments: str) -> str:
            process = await asyncio.create_subprocess_exec(
                *(str(KUBECTL), f"--server=http://127.0.0.1:{peer.server.port}", *arguments),
                env={"HOME": str(tmp_path)},
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode()

        label = "nvidia.com/mig.config"
        await kubectl("label", "node", "n", "--overwrite", f"{label}=all-balanced")
        assert peer.server.node("n")["metadata"]["labels"][label] == "all-balanced"
        path = r"{.metadata.labels.nvidia\.com/mig\.config\.state}"
        waiting = asyncio.create_task(
            kubectl("wait", "node/n", f"--for=jsonpath={path}=success", "--timeout=20s")
        )
        while not peer.server.storage.followers():  # noqa: ASYNC110 — nobody announces a watch
            await asyncio.sleep(0.01)
        change = {"metadata": {"labels": {f"{label}.state": "success"}}}
        peer.server.change("nodes", "n", change)
        assert await waiting == "node/n condition met\n"
