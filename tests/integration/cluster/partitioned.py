"""A simulated node that the Node's label partitions, without kubelet, over HTTP to the stand-in API
server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no type information

from plugin.core.partition.answer import ANNOTATION
from plugin.core.partition.policy import Policy
from plugin.core.settings import MigStrategy, Settings
from plugin.kubelet.deviceplugin.supervisor import Supervisor
from plugin.loops.heartbeats import Heartbeats
from plugin.partitioning import MEMORY, Partitioning
from plugin.reporting.reporter import Reporter
from plugin.sim.apiserver.server import SimApiServer
from plugin.sim.hardware.engine import SimNode, parse_node
from plugin.sim.simulation import simulate
from plugin.state.ledger_file import LedgerFile
from plugin.state.writer import Writer
from tests.partition_rig import Inline, devices

from .reported import LONG, TOKEN, kubeconfig, user_of
from .subject import NODE

LABEL = "nvidia.com/mig.config"
STATE = "nvidia.com/mig.config.state"
#: The option whose rules the document lists.
FLAG = "--partition-label"

SMALL, BALANCED = {"1g.5gb": 7}, {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}


@dataclass
class Partitioned:
    """``partitioning`` and ``reporter`` are those of the running process."""

    server: SimApiServer
    hardware: SimNode
    folder: Path
    settings: Settings
    partitioning: Partitioning | None = None
    reporter: Reporter | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Partitioning]:
        """From the start of a process to its orderly end."""
        driver = simulate(self.hardware).driver
        worker, beats = Inline(driver.hangs), Heartbeats()
        ledger = self.folder / "ledger.json"
        writer = Writer(driver, worker, self.settings, LedgerFile(ledger))
        await writer.start()
        supervisor = Supervisor(writer.store, "")
        partitioning = Partitioning(
            writer, driver, worker, beats, self.settings, ledger, supervisor, None
        )
        reporter = Reporter(
            writer.store,
            self.folder / "cluster-features",
            dict,
            tuple,
            partitioning,
            after_seconds=0,
        )
        self.partitioning, self.reporter = partitioning, reporter
        tasks = [
            asyncio.create_task(part)
            for part in (writer.run(beats), partitioning.run(), reporter.run())
        ]
        try:
            yield partitioning
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            driver.close()

    def label(self, value: str | None) -> None:
        self.change(LABEL, value)

    def change(self, key: str, value: str | None, manager: str = "kubectl-label") -> None:
        self.server.change("nodes", NODE, {"metadata": {"labels": {key: value}}}, manager=manager)

    async def unlabel(self) -> None:
        """Remove the label, and wait until the daemon has noticed."""
        self.label(None)
        memory = self.folder / MEMORY
        await self.becomes(lambda: json.loads(memory.read_text())["label"]["value"] == "")

    @property
    def state(self) -> str | None:
        found: str | None = self.server.node(NODE)["metadata"]["labels"].get(STATE)
        return found

    @property
    def answer(self) -> dict[str, Any]:
        """The annotation; empty without one."""
        text = self.server.node(NODE)["metadata"].get("annotations", {}).get(ANNOTATION, "{}")
        found: dict[str, Any] = json.loads(text)
        return found

    def devices(self) -> list[dict[str, int]]:
        return devices(self.hardware)

    def writes(self) -> list[Any]:
        return [each.body for each in self.server.journal.of("patch")]

    async def becomes(self, condition: Callable[[], object], seconds: float = LONG) -> None:
        try:
            async with asyncio.timeout(seconds):
                pause = 0.05
                while not condition():  # the server announces nothing
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.1, 10.0)
        except TimeoutError:
            problems = self.reporter.status().problems if self.reporter is not None else ()
            raise AssertionError(
                f"not within {seconds:g} s: {self.state} {self.answer} {problems}"
            ) from None

    async def ends(self, word: str, name: str) -> None:
        """The label and the annotation say so."""
        await self.becomes(lambda: self.state == word and self.answer.get("name") == name)


@contextlib.asynccontextmanager
async def partitioned(
    folder: Path,
    node: str = "2xa100-40gb:all-enabled",
    *,
    labels: dict[str, str] | None = None,
    in_use: Policy = Policy.WAIT,
    config: str = "",
    events: bool = False,
) -> AsyncIterator[Partitioned]:
    """At the end, the Node is valid."""
    flags = (FLAG, "--node-events") if events else (FLAG,)
    async with SimApiServer(users=user_of(*flags)) as server:
        server.add_node(NODE, labels=labels)
        settings = Settings(
            mig_strategy=MigStrategy.MIXED,
            rescan_seconds=3600.0,
            kubelet_socket="",
            node_name=NODE,
            kubeconfig=str(kubeconfig(folder, server, TOKEN)),
            partition_label=LABEL,
            partition_in_use=in_use,
            partition_config=config,
            node_events=events,
        )
        yield Partitioned(server, parse_node(node), folder, settings)
        kubernetes_validate.validate(server.node(NODE), "1.37", strict=True)
