"""A real Prometheus as a process of its own, and what may be asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .waiting import SECONDS, eventually

PROMETHEUS = shutil.which("prometheus")

#: Lines of its log that are no complaint about what is scraped or about rules.
_LEVELS = ("level=warn", "level=error")

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of an instant vector."""

    labels: Labels
    value: float


@dataclass
class Prometheus:
    """Asks a running Prometheus over its API."""

    url: str
    log_file: Path

    @property
    def complaints(self) -> list[str]:
        return [
            line
            for line in self.log_file.read_text().splitlines()
            if any(level in line for level in _LEVELS)
        ]

    async def api(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer; AssertionError with Prometheus' words where it refuses."""
        status, body = await fetch(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), (
            f"{parameters}: {answer.get('error')}"
        )
        return answer["data"]

    async def query(self, expression: str) -> list[Sample]:
        data = await self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(item["metric"], float(item["value"][1])) for item in data["result"]]

    async def value(self, expression: str) -> float | None:
        """The only element of a vector; ``None`` for an empty one."""
        samples = await self.query(expression)
        assert len(samples) <= 1, f"{expression} has {len(samples)} elements"
        return samples[0].value if samples else None

    async def holds(self, expression: str) -> None:
        """Wait until the vector has an element, as an alert's condition does."""
        await eventually(lambda: self.query(expression), expression, seconds=2 * SECONDS)

    async def firing(self) -> list[Labels]:
        alerts = (await self.api("alerts"))["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    async def fires(self, alert: str, **labels: str) -> Mapping[str, Any]:
        """Wait until `alert` fires with these labels among its own; returns it."""

        async def found() -> list[Any]:
            wanted = {"alertname": alert, **labels}.items()
            alerts = (await self.api("alerts"))["alerts"]
            return [a for a in alerts if a["state"] == "firing" and wanted <= a["labels"].items()]

        alerts = await eventually(found, f"{alert} {labels} fires", seconds=2 * SECONDS)
        first: Mapping[str, Any] = alerts[0]
        return first

    async def settles(self) -> None:
        """Wait until no alert fires or is about to."""

        async def calm() -> bool:
            return not (await self.api("alerts"))["alerts"]

        await eventually(calm, "no alert is left", seconds=2 * SECONDS)

    async def resolves(self, alert: str) -> None:
        """Wait until `alert` is neither firing nor about to."""

        async def gone() -> bool:
            return all(
                a["labels"]["alertname"] != alert for a in (await self.api("alerts"))["alerts"]
            )

        await eventually(gone, f"{alert} resolves", seconds=2 * SECONDS)


@contextlib.asynccontextmanager
async def running(
    folder: Path, scrapes: list[dict[str, Any]], rules: dict[str, Any]
) -> AsyncIterator[Prometheus]:
    """Run Prometheus on the loopback interface; it scrapes and evaluates `rules` each second."""
    assert PROMETHEUS is not None
    _configure(folder, scrapes, rules)
    address = f"127.0.0.1:{free_port()}"
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    server = Prometheus(f"http://{address}", log_file)
    try:

        async def ready() -> bool:
            assert process.returncode is None, log_file.read_text()
            return (await fetch(f"{server.url}/-/ready"))[0] == 200

        await eventually(ready, "Prometheus is ready", seconds=2 * SECONDS)
        yield server
    finally:
        if process.returncode is None:
            process.kill()  # its data are thrown away
        await process.wait()


def _configure(folder: Path, scrapes: list[dict[str, Any]], rules: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": scrapes,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))


async def fetch(url: str) -> tuple[int, str]:
    """Status and body of a GET; status 0 when nobody listens."""

    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 — a loopback address of the test's
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    return await asyncio.to_thread(get)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
