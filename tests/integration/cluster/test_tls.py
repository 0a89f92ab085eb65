"""TLS: whom the client trusts, and certificates that change."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from plugin.cluster import kubeconfig
from plugin.cluster.client import ApiClient
from plugin.cluster.credentials import Fixed, Server, ServiceAccount
from plugin.cluster.failures import Cause
from plugin.errors import ClusterUnreachable
from plugin.sim.apiserver.rbac import ADMIN
from plugin.sim.apiserver.server import SimApiServer

from .subject import NODE

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl to make certificates"
)


def authority(folder: Path, name: str, names: str = "IP:127.0.0.1") -> Path:
    """A certificate that signs itself, for a server of these names; its key beside it."""
    crt = folder / f"{name}.crt"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(crt), "-subj", f"/CN={name}"]
    more = ["-addext", f"subjectAltName={names}"]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, *files, *more], check=True, capture_output=True
    )
    return crt


def serving(crt: Path, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, crt.with_suffix(".key"))
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def account(folder: Path, port: int) -> ServiceAccount:
    (folder / "token").write_text("t")
    return ServiceAccount(Server("127.0.0.1", port, name="127.0.0.1"), folder)


@pytest.mark.asyncio
async def test_a_pod_trusts_its_ca_and_a_new_one_once_it_is_there(tmp_path: Path) -> None:
    old, new = authority(tmp_path, "old"), authority(tmp_path, "new")
    shutil.copy(old, tmp_path / "ca.crt")
    async with SimApiServer(tls=serving(old), users={"t": ADMIN}) as server:
        server.add_node(NODE)
        client = ApiClient(NODE, account(tmp_path, server.port))
        assert (await client.get_node()).metadata.name == NODE
        await server.away()
        server.tls = serving(new)
        await server.back()
        with pytest.raises(ClusterUnreachable) as caught:
            await client.get_node()
        assert caught.value.cause is Cause.CERTIFICATE
        assert "ca.crt" in caught.value.fix
        shutil.copy(new, tmp_path / "ca.crt")
        assert (await client.get_node()).metadata.name == NODE
        shutil.copy(old, tmp_path / "ca.crt")
        with pytest.raises(ClusterUnreachable):  # not over the connection that is still open
            await client.get_node()
        client.close()


@pytest.mark.asyncio
async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    shutil.copy(authority(tmp_path, "other", "DNS:kubernetes"), tmp_path / "ca.crt")
    async with SimApiServer(tls=serving(tmp_path / "other.crt")) as server:
        client = ApiClient(NODE, account(tmp_path, server.port))
        with pytest.raises(ClusterUnreachable) as caught:
            await client.get_node()
        assert caught.value.cause is Cause.CERTIFICATE


@pytest.mark.asyncio
async def test_a_server_without_tls(tmp_path: Path) -> None:
    shutil.copy(authority(tmp_path, "x"), tmp_path / "ca.crt")
    async with SimApiServer() as server:
        client = ApiClient(NODE, account(tmp_path, server.port))
        with pytest.raises(ClusterUnreachable) as caught:
            await client.get_node()
        assert caught.value.cause in {Cause.TLS, Cause.RESET}


@pytest.mark.asyncio
async def test_a_host_without_an_address() -> None:
    client = ApiClient(NODE, Fixed(Server("no-such-host.invalid", 443, tls=False)))
    with pytest.raises(ClusterUnreachable) as caught:
        await client.get_node()
    assert caught.value.cause is Cause.NAME


@pytest.mark.asyncio
async def test_a_client_certificate_from_a_kubeconfig(tmp_path: Path) -> None:
    crt, ours = authority(tmp_path, "server"), authority(tmp_path, "client")
    (tmp_path / "config").write_text(
        f"""
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: c}}}}]
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:PORT", certificate-authority: {crt}}}}}]
users: [{{name: c, user: {{client-certificate: {ours}, client-key: {ours.with_suffix(".key")}}}}}]
"""
    )
    async with SimApiServer(tls=serving(crt, ours)) as server:
        server.add_node(NODE)
        path = tmp_path / "config"
        path.write_text(path.read_text().replace("PORT", str(server.port)))
        client = ApiClient(NODE, kubeconfig.load(path))
        assert (await client.get_node()).metadata.name == NODE
        watched = client.watch_node()
        following = asyncio.create_task(watched.run())
        async with asyncio.timeout(10):
            while not watched.now.live:
                await watched.newer_than(watched.now.generation)
        following.cancel()
        client.close()
