"""A node whose state is reported to the stand-in API server, over HTTP, by a user that has the
rules of docs/cluster.md and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information
from msgspec.structs import replace

from plugin.core.holders import Holders
from plugin.core.settings import Settings
from plugin.core.state import State, Step
from plugin.core.view import ClusterStatus, ResourceStatus
from plugin.loops.store import Store
from plugin.reporting.reporter import Reporter
from plugin.sim.apiserver.rbac import User
from plugin.sim.apiserver.server import SimApiServer

from .subject import NODE

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"
TOKEN = "of-the-plugin"  # noqa: S105 — of the stand-in's user
LONG = 7200.0
#: Options by field of the settings.
FLAGS = {
    "node_labels": "--node-labels",
    "node_events": "--node-events",
    "node_condition": "--node-condition",
    "node_taint": "--node-taint",
    "startup_taint": "--startup-taint",
}


def rules(*flags: str) -> list[dict[str, list[str]]]:
    """The ClusterRole's rules for these options, as the document lists them."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Permissions")[2]
    found = []
    for line in section.partition("\n## ")[0].splitlines():
        cells = [re.findall(r"`([^`]*)`", cell) for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or len(cells) != 4 or not cells[3]:
            continue
        features, groups, resources, verbs = cells
        if not features or set(features) & set(flags):
            groups = [group.strip('"') for group in groups]
            found.append({"apiGroups": groups, "resources": resources, "verbs": verbs})
    return found


def granted(*flags: str) -> set[tuple[str, str, str]]:
    """API group, resource and verb of all requests that those rules allow."""
    return {
        (group, resource, verb)
        for rule in rules(*flags)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def flags_of(settings: Settings) -> list[str]:
    return [flag for name, flag in FLAGS.items() if getattr(settings, name)]


def user_of(*flags: str) -> dict[str, User]:
    return {TOKEN: User("system:serviceaccount:gpu:mig-device-plugin", rules(*flags))}


def kubeconfig(folder: Path, server: SimApiServer, token: str = TOKEN) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [
                    {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
                ],
                "users": [{"name": "u", "user": {"token": token}}],
            }
        )
    )
    return path


@dataclass
class Reported:
    """``state`` is the node's; what is taken is published as the writer does it."""

    server: SimApiServer
    state: State
    store: Store
    folder: Path
    holders: Holders = field(default_factory=dict)
    resources: tuple[ResourceStatus, ...] = ()
    reporter: Reporter | None = None
    choose: Callable[[str], None] | None = None

    def take(self, step: Step | State) -> None:
        self.state = step.state if isinstance(step, Step) else step
        if self.state.snapshot.generation > self.store.snapshot.generation:
            self.store.publish(self.state.snapshot)

    @property
    def status(self) -> ClusterStatus:
        assert self.reporter is not None
        return self.reporter.status()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the start of a process to its orderly end."""
        self.reporter = Reporter(
            self.store,
            self.folder / "cluster-features",
            lambda: self.holders,
            lambda: self.resources,
            choose=self.choose,
            after_seconds=0,
        )
        task = asyncio.create_task(self.reporter.run())
        try:
            yield
            assert not task.done() or task.exception() is None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if task.done() and not task.cancelled():
            task.result()

    # ---- what stands in the cluster

    def labels(self) -> Mapping[str, str]:
        """Those of NVIDIA's domain."""
        found = self.server.node(NODE)["metadata"]["labels"]
        return {key: value for key, value in found.items() if key.startswith("nvidia.com/")}

    def annotations(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.server.node(NODE)["metadata"].get("annotations", {})
        return found

    def condition(self, kind: str) -> dict[str, str]:
        conditions = self.server.node(NODE)["status"]["conditions"]
        return next((each for each in conditions if each["type"] == kind), {})

    def taints(self) -> list[str]:
        taints = self.server.node(NODE)["spec"].get("taints", [])
        return [f"{taint['key']}:{taint['effect']}" for taint in taints]

    def events(self) -> list[tuple[str, str]]:
        return [(each["reason"], each["regarding"]["name"]) for each in self.server.events()]

    def requests(self) -> int:
        return sum(self.server.journal.counts.values())

    async def becomes(self, condition: Callable[[], object], seconds: float = LONG) -> None:
        try:
            async with asyncio.timeout(seconds):
                pause = 0.05
                while not condition():  # the server announces nothing
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.1, 10.0)
        except TimeoutError:
            requests = dict(self.status.requests)
            shown = self.events(), self.taints(), requests, self.status.problems
            raise AssertionError(f"not within {seconds:g} s: {shown}") from None


@contextlib.asynccontextmanager
async def reported(
    folder: Path, state: State, *, rights: tuple[str, ...] | None = None, **node: Any
) -> AsyncIterator[Reported]:
    """A server with the Node, and the state that is to be reported; `rights` are the options whose
    rules the user has, by default those of the settings. At the end, all that was written is valid.
    """
    settings = state.snapshot.settings
    flags = flags_of(settings) if rights is None else rights
    async with SimApiServer(users=user_of(*flags)) as server:
        server.add_node(NODE, **node)
        path = kubeconfig(folder, server)
        settings = dataclasses.replace(settings, kubeconfig=str(path), node_name=NODE)
        snapshot = replace(state.snapshot, settings=settings)
        state = replace(state, snapshot=snapshot)
        yield Reported(server, state, Store(snapshot), folder)
        for document in (server.node(NODE), *server.events()):
            kubernetes_validate.validate(document, "1.37", strict=True)


def configured(subject: Reported, **changes: Any) -> None:
    """Other settings for the next process."""
    snapshot = subject.state.snapshot
    new = replace(snapshot, settings=dataclasses.replace(snapshot.settings, **changes))
    subject.state = replace(subject.state, snapshot=new)
    subject.store = Store(new)
    subject.server.users.clear()
    subject.server.users.update(user_of(*FLAGS.values()))
