"""The HTTP server in the pod: where it listens, who asks it, and who may."""

from typing import TYPE_CHECKING, Any

import pytest

from plugin.config.load import load

if TYPE_CHECKING:
    from .conftest import Renderer

PROBES = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
TLS = {"http": {"tls": {"secretName": "certificate"}}}


def test_metrics_and_probes_are_served_by_default(render: "Renderer") -> None:
    release = render()
    assert release.env["HTTP_ADDRESS"] == ":9400"
    assert release.container["ports"] == [
        {"name": "http", "containerPort": 9400, "protocol": "TCP"}
    ]
    asked = {name: release.container[name]["httpGet"] for name in PROBES}
    assert asked == {
        name: {"path": path, "port": "http", "scheme": "HTTP"} for name, path in PROBES.items()
    }


def test_a_hung_daemon_is_restarted_later_than_it_becomes_unready(render: "Renderer") -> None:
    container = render().container

    def seconds(probe: str) -> int:
        timing = container[probe]
        assert timing["timeoutSeconds"] <= timing["periodSeconds"]
        product: int = timing["periodSeconds"] * timing["failureThreshold"]
        return product

    assert seconds("readinessProbe") < seconds("livenessProbe") < seconds("startupProbe")


def test_timing_of_the_probes_can_be_changed(render: "Renderer") -> None:
    probe = render({"http": {"livenessProbe": {"failureThreshold": 9}}}).container["livenessProbe"]
    assert (probe["failureThreshold"], probe["periodSeconds"]) == (9, 10)


@pytest.mark.parametrize(
    ("address", "port", "listens"),
    [
        ("", 9400, ":9400"),
        ("0.0.0.0", 8080, "0.0.0.0:8080"),  # noqa: S104 — a container's every address
        ("::", 9400, "[::]:9400"),
        ("fd00::1", 1, "[fd00::1]:1"),
    ],
)
def test_address_is_one_that_the_daemon_takes(
    render: "Renderer", address: str, port: int, listens: str
) -> None:
    release = render({"http": {"address": address, "port": port}})
    assert (
        release.env["HTTP_ADDRESS"] == listens == str(load({}, release.env).settings.http_address)
    )
    assert release.container["ports"][0]["containerPort"] == port
    assert release.of_kind("Service")[0]["spec"]["ports"][0]["port"] == port


def test_certificate_is_mounted_where_the_daemon_looks(render: "Renderer") -> None:
    release = render(TLS)
    (volume,) = (volume for volume in release.pod["volumes"] if "secret" in volume)
    assert volume["secret"] == {"secretName": "certificate", "defaultMode": 0o400}
    mount = {"name": volume["name"], "mountPath": "/tls", "readOnly": True}
    assert mount in release.container["volumeMounts"], (
        "as a directory, so that a renewal reaches the container"
    )
    settings = load({}, release.env).settings
    assert (settings.http_tls_cert, settings.http_tls_key) == ("/tls/tls.crt", "/tls/tls.key")
    assert {release.container[probe]["httpGet"]["scheme"] for probe in PROBES} == {"HTTPS"}


def test_tokens_are_mounted_where_the_daemon_looks(render: "Renderer") -> None:
    http = {"token": {"secretName": "tokens", "key": "metrics"}}
    release = render({"http": http, "podMonitor": {"enabled": True}})
    (volume,) = (volume for volume in release.pod["volumes"] if "secret" in volume)
    assert volume["secret"] == {
        "secretName": "tokens",
        "defaultMode": 0o400,
        "items": [{"key": "metrics", "path": "token"}],
    }
    mount = {"name": volume["name"], "mountPath": "/token", "readOnly": True}
    assert mount in release.container["volumeMounts"], (
        "as a directory, so that a change reaches the container"
    )
    where = load({}, release.env).settings.http_token_file
    assert where == f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}"
    (monitor,) = release.of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "tokens", "key": "metrics"}}


def test_prometheus_may_have_a_token_of_its_own(render: "Renderer") -> None:
    own = {"credentials": {"name": "prometheus", "key": "token"}}
    (monitor,) = render(
        {
            "http": {"token": {"secretName": "tokens"}},
            "podMonitor": {"enabled": True, "authorization": own},
        }
    ).of_kind("PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["authorization"] == own


SERVICE = ("gpu-mig-device-plugin", "gpu-mig-device-plugin.ops", "gpu-mig-device-plugin.ops.svc")


@pytest.mark.parametrize(
    ("values", "hosts"),
    [
        ({}, (*SERVICE, f"{SERVICE[-1]}.cluster.local")),
        (
            {"http": {"hosts": ["*.example.com", SERVICE[0]]}},
            (*SERVICE, f"{SERVICE[-1]}.cluster.local", "*.example.com"),
        ),
        ({"http": {"rbacProxy": {"enabled": True}}}, (*SERVICE, f"{SERVICE[-1]}.cluster.local")),
        ({"service": {"enabled": False}}, ()),
        ({"service": {"enabled": False}, "http": {"hosts": ["*"]}}, ("*",)),
        ({"http": {"enabled": False, "hosts": ["*"]}}, ()),
    ],
)
def test_the_service_s_names_are_served(
    render: "Renderer", values: dict[str, Any], hosts: tuple[str, ...]
) -> None:
    release = render(values, namespace="ops")
    assert load({}, release.env).settings.http_hosts == hosts
    for service in release.of_kind("Service"):
        assert service["metadata"]["name"] == SERVICE[0]


def test_it_can_be_switched_off(render: "Renderer") -> None:
    release = render({"http": {"enabled": False}})
    assert load({}, release.env).settings.http_address is None
    assert not {"ports", *PROBES} & release.container.keys()
    assert release.of_kind("Service") == []


def test_service_names_every_pod_ready_or_not(render: "Renderer") -> None:
    (service,) = render({"service": {"annotations": {"a": "b"}}}).of_kind("Service")
    release = render()
    assert service["metadata"]["annotations"] == {"a": "b"}
    assert service["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": release.daemonset["spec"]["selector"]["matchLabels"],
        "ports": [{"name": "http", "port": 9400, "targetPort": "http", "protocol": "TCP"}],
    }
    assert render({"service": {"enabled": False}}).of_kind("Service") == []


def test_kubelets_pod_resources_are_looked_at(render: "Renderer", case: dict[str, Any]) -> None:
    release = render(case)
    on_host = case.get("kubelet", {}).get("podResourcesDir", "/var/lib/kubelet/pod-resources")
    assert release.host_mounts["/var/lib/kubelet/pod-resources"] == (on_host, True)
    env = {name: value for name, value in release.env.items() if not name.startswith("CONFIG_")}
    socket = load({}, env).settings.pod_resources_socket
    assert socket == "/var/lib/kubelet/pod-resources/kubelet.sock"


def test_network_policy_lets_the_chosen_in_and_nothing_out(render: "Renderer") -> None:
    assert render().of_kind("NetworkPolicy") == []
    peer = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    release = render(
        {"networkPolicy": {"enabled": True, "namespaces": ["monitoring", "ops"], "from": [peer]}}
    )
    (policy,) = release.of_kind("NetworkPolicy")
    names = {
        "key": "kubernetes.io/metadata.name",
        "operator": "In",
        "values": ["monitoring", "ops"],
    }
    assert policy["spec"] == {
        "podSelector": {"matchLabels": release.daemonset["spec"]["selector"]["matchLabels"]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "ports": [{"port": "http", "protocol": "TCP"}],
                "from": [{"namespaceSelector": {"matchExpressions": [names]}}, peer],
            }
        ],
        "egress": [],
    }


@pytest.mark.parametrize(
    ("policy", "made"),
    [
        ({}, False),
        ({"namespaces": ["monitoring"]}, True),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, True),
        ({"enabled": False, "namespaces": ["monitoring"]}, False),
    ],
)
def test_network_policy_comes_by_itself_when_it_is_known_whom_to_let_in(
    render: "Renderer", policy: dict[str, Any], *, made: bool
) -> None:
    assert bool(render({"networkPolicy": policy}).of_kind("NetworkPolicy")) is made


def test_behind_the_proxy_the_daemon_is_on_loopback_and_has_no_token(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["rbac-proxy"])
    assert release.env["HTTP_ADDRESS"] == "127.0.0.1:9400"
    assert load({}, release.env).settings.http_tls_cert == ""
    (proxy,) = (item for item in release.pod["containers"] if item["name"] == "kube-rbac-proxy")
    assert proxy["args"] == [
        "--secure-listen-address=:9443",
        "--upstream=http://127.0.0.1:9400/",
        "--ignore-paths=/healthz,/readyz",
        "--tls-cert-file=/tls/tls.crt",
        "--tls-private-key-file=/tls/tls.key",
    ]
    assert proxy["securityContext"]["runAsNonRoot"] is True
    assert proxy["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in proxy["volumeMounts"]}
    assert mounts == {"token": "/var/run/secrets/kubernetes.io/serviceaccount", "tls": "/tls"}
    assert not {"token", "tls"} & {mount["name"] for mount in release.container["volumeMounts"]}
    assert "ports" not in release.container
    asked = {name: release.container[name]["httpGet"] for name in PROBES}
    assert asked == {
        name: {"path": path, "port": 9443, "scheme": "HTTPS"} for name, path in PROBES.items()
    }
    (service,) = release.of_kind("Service")
    assert service["spec"]["ports"][0]["port"] == 9443
    (monitor,) = release.of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["authorization"] == {
        "credentials": {"name": "prometheus-token", "key": "token"}
    }
    (policy,) = release.of_kind("NetworkPolicy")
    assert policy["spec"]["egress"] == [
        {"ports": [{"port": port, "protocol": "TCP"} for port in (443, 6443)]}
    ]


def test_the_proxy_may_ask_the_api_server_and_readers_get_a_role(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["rbac-proxy"])
    (binding,) = release.of_kind("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == "system:auth-delegator"
    assert binding["subjects"] == [
        {
            "kind": "ServiceAccount",
            "name": release.pod["serviceAccountName"],
            "namespace": "kube-system",
        }
    ]
    (role,) = release.of_kind("ClusterRole")
    assert role["rules"] == [{"nonResourceURLs": ["/", "/metrics", "/api/*"], "verbs": ["get"]}]
    assert f"--clusterrole={role['metadata']['name']} " in release.notes


def test_only_the_proxy_brings_objects_of_the_cluster(
    render: "Renderer", case: dict[str, Any]
) -> None:
    """Those of the features that ask the API server apart: tests/chart/test_cluster.py."""
    names = {
        manifest["metadata"]["name"].rpartition(":")[2]
        for manifest in render(case).manifests
        if manifest["kind"] in {"ClusterRole", "ClusterRoleBinding"}
    } - {"daemon"}
    proxied = case.get("http", {}).get("rbacProxy", {}).get("enabled", False)
    assert names == ({"reader", "auth-delegator"} if proxied else set())


def test_on_loopback_only_port_forward_reaches_it(
    render: "Renderer", cases: dict[str, dict[str, Any]]
) -> None:
    release = render(cases["loopback"])
    assert release.env["HTTP_ADDRESS"] == "127.0.0.1:9400"
    assert not PROBES.keys() & release.container.keys()
    assert release.of_kind("Service") == []


@pytest.mark.parametrize("probe", PROBES)
def test_one_probe_can_be_off(render: "Renderer", probe: str) -> None:
    container = render({"http": {probe: {"enabled": False}}}).container
    assert PROBES.keys() & container.keys() == PROBES.keys() - {probe}


def test_network_policy_without_server_lets_nobody_in(render: "Renderer") -> None:
    release = render({"networkPolicy": {"enabled": True}, "http": {"enabled": False}})
    (policy,) = release.of_kind("NetworkPolicy")
    assert (policy["spec"]["ingress"], policy["spec"]["egress"]) == ([], [])
