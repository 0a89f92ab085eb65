"""Service account and kubeconfig: what is read when, and what is refused with which sentence."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugin.cluster import kubeconfig
from plugin.cluster.client import connect, own_node
from plugin.cluster.credentials import Server, ServiceAccount, in_cluster
from plugin.cluster.failures import Cause
from plugin.errors import ClusterUnreachable, ConfigError

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl to make certificates"
)


def certificate(folder: Path, name: str = "ca") -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(crt), "-subj", f"/CN={name}"]
    subprocess.run(["openssl", "req", "-x509", *kind, *files], check=True, capture_output=True)
    return crt, key


# ---- service account


@pytest.mark.parametrize(
    ("host", "text"),
    [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443"),
     ("[fd00::1]", "https://[fd00::1]:443")],
)  # fmt: skip
def test_the_server_of_a_pod(host: str, text: str) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    server = in_cluster(environment).server
    assert (str(server), server.tls, server.name) == (text, True, host.strip("[]"))


@pytest.mark.parametrize(
    "environment",
    [{}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
     {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "tcp://x"}],
)  # fmt: skip
def test_outside_of_a_pod(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="run in a pod, or name a kubeconfig"):
        in_cluster(environment)


def account(folder: Path, now: list[float]) -> ServiceAccount:
    return ServiceAccount(Server("127.0.0.1", 1), folder, lambda: now[0])


def test_the_token_is_read_each_minute_and_when_it_was_refused(tmp_path: Path) -> None:
    token, now = tmp_path / "token", [0.0]
    token.write_text("one\n")
    ours = account(tmp_path, now)
    assert ours.token() == "one"
    token.write_text("two")
    now[0] = 59.0
    assert ours.token() == "one"
    assert ours.token(again=True) == "two"
    token.write_text("three")
    now[0] = 59.0 + 60.0
    assert ours.token() == "three"


def test_the_token_is_found_through_the_links_that_kubelet_swaps(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "..data").symlink_to("old")
    (tmp_path / "token").symlink_to("..data/token")
    ours = account(tmp_path, [0.0])
    assert ours.token() == "old"
    (tmp_path / "link").symlink_to("new")
    (tmp_path / "link").replace(tmp_path / "..data")
    assert ours.token(again=True) == "new"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"a\nb", b"a\x00b", b"\xff"])
def test_a_token_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ClusterUnreachable) as caught:
        account(tmp_path, [0.0]).token()
    assert caught.value.cause is Cause.CREDENTIALS
    assert caught.value.fix


@needs_openssl
def test_a_new_authority_makes_a_new_context(tmp_path: Path) -> None:
    ours = account(tmp_path, [0.0])
    authority, _ = certificate(tmp_path)
    first = ours.context()
    assert ours.context() is first
    certificate(tmp_path, "new")[0].replace(authority)
    assert ours.context() is not first


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff"])
def test_an_authority_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(ClusterUnreachable) as caught:
        account(tmp_path, [0.0]).context()
    assert caught.value.cause is Cause.CREDENTIALS


@pytest.mark.parametrize(
    ("name", "host", "node"),
    [("gpu-1", "other", "gpu-1"), ("", "GPU-2.example \n", "gpu-2.example")],
)
def test_the_name_of_the_node(name: str, host: str, node: str) -> None:
    assert own_node(name, lambda: host) == node


def test_where_the_client_finds_its_credentials(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect("n", str(write({"server": "http://x"}))).node == "n"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError):
        connect("n")


# ---- kubeconfig

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A kubeconfig with these entries of its cluster and user."""

    def write(cluster: dict[str, Any], user: dict[str, Any] | None = None, **root: Any) -> Path:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or {}}],
            **root,
        }
        path = tmp_path / "config"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://10.0.0.1:8080", Server("10.0.0.1", 8080, tls=False, name="10.0.0.1")),
        ("http://[fd00::1]", Server("fd00::1", 80, tls=False, name="fd00::1")),
        ("https://k8s.io/k8s/c-1/", Server("k8s.io", 443, name="k8s.io", path="/k8s/c-1")),
    ],
)
def test_the_server_of_a_kubeconfig(write: Write, url: str, server: Server) -> None:
    cluster = {"server": url, "insecure-skip-tls-verify": True}
    assert kubeconfig.load(write(cluster)).server == server


def test_tokens_of_a_kubeconfig(write: Write, tmp_path: Path) -> None:
    cluster = {"server": "http://x"}
    assert kubeconfig.load(write(cluster, {"token": "t"})).token() == "t"
    (tmp_path / "token").write_text("from file")
    assert kubeconfig.load(write(cluster, {"tokenFile": "token"})).token() == "from file"
    assert kubeconfig.load(write(cluster)).token() is None


@needs_openssl
@pytest.mark.parametrize("inline", [True, False])
def test_certificates_of_a_kubeconfig(write: Write, tmp_path: Path, inline: bool) -> None:  # noqa: FBT001
    authority, _ = certificate(tmp_path)
    pair = certificate(tmp_path, "client")

    def entry(key: str, path: Path) -> dict[str, str]:
        data = base64.b64encode(path.read_bytes()).decode()
        return {f"{key}-data": data} if inline else {key: path.name}

    cluster = {"server": "https://x", "tls-server-name": "y"} | entry(
        "certificate-authority", authority
    )
    user = entry("client-certificate", pair[0]) | entry("client-key", pair[1])
    found = kubeconfig.load(write(cluster, user))
    assert found.server.name == "y"
    context = found.context()
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname
    assert kubeconfig.load(write({**cluster, "insecure-skip-tls-verify": True})).tls is not None


HTTPS = {"server": "https://x"}


@pytest.mark.parametrize(
    ("cluster", "user", "root", "sentence"),
    [
        (HTTPS, {"exec": {"command": "aws"}}, {}, "exec is not supported; use a token"),
        (HTTPS, {"auth-provider": {}}, {}, "auth-provider is not supported"),
        (HTTPS, {"username": "x", "password": "y"}, {}, "username is not supported"),
        ({**HTTPS, "proxy-url": "http://p"}, {}, {}, "proxy-url is not supported"),
        ({}, {}, {}, "server is ''; name a URL"),
        ({"server": "x:6443"}, {}, {}, "name a URL such as"),
        ({"server": "https://x:port"}, {}, {}, "name a URL such as"),
        (HTTPS, {}, {"current-context": "there"}, "contexts has no 'there'; choose among here"),
        (HTTPS, {}, {"clusters": []}, "clusters has no 'c'"),
        (HTTPS, {}, {"users": None}, "users has no 'u'"),
        (HTTPS, {}, {"contexts": [{"name": "here", "context": 7}]}, "is not a kubeconfig"),
        ({**HTTPS, "certificate-authority": "none.crt"}, {}, {}, "none.crt cannot be read"),
        ({**HTTPS, "certificate-authority-data": "%"}, {}, {}, "is no base64"),
        ({**HTTPS, "certificate-authority-data": "eA=="}, {}, {}, "holds no certificates"),
        (HTTPS, {"client-key-data": "eA=="}, {}, "belong together"),
        (HTTPS, {"token": "a\nb"}, {}, "token is empty or holds a line break"),
        (
            HTTPS,
            {"client-key-data": "eA==", "client-certificate-data": "eA=="},
            {},
            "cannot be used",
        ),
    ],
)
def test_what_a_kubeconfig_must_not_hold(
    write: Write, cluster: dict[str, Any], user: dict[str, Any], root: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        kubeconfig.load(write(cluster, user, **root))
    assert "\n" not in str(caught.value)


def test_a_kubeconfig_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        kubeconfig.load(tmp_path / "none")
    (tmp_path / "list").write_text("[]")
    with pytest.raises(ConfigError, match="is not a kubeconfig"):
        kubeconfig.load(tmp_path / "list")
