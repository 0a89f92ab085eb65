"""Bad values are refused before anything is installed, with the fix in the message."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import helm_python
import pytest

if TYPE_CHECKING:
    from .conftest import Renderer

NO_PROBES = {f"{name}Probe": {"enabled": False} for name in ("startup", "liveness", "readiness")}
SIMULATION = {"driver": {"access": "simulation"}, "simulation": {"node": "p4d.24xlarge"}}


@pytest.mark.parametrize(
    ("values", "place", "says"),
    [
        ({"driver": {"access": "magic"}}, "/driver/access", "'runtime', 'host', 'simulation'"),
        ({"driver": {"acess": "host"}}, "/driver", "'acess' not allowed"),
        ({"migstrategy": "mixed"}, "", "'migstrategy' not allowed"),
        ({"migStrategy": "both"}, "/migStrategy", "'none', 'single', 'mixed'"),
        ({"singleResource": "mig"}, "/singleResource", "'profile', 'gpu'"),
        ({"failOnInitError": "false"}, "/failOnInitError", "got string, want"),
        ({"deviceListStrategy": "cdi-cri"}, "/deviceListStrategy", "'envvar', 'volume-mounts'"),
        ({"deviceListStrategy": ["envvar", "envvar"]}, "/deviceListStrategy", "equal"),
        ({"deviceIDStrategy": "name"}, "/deviceIDStrategy", "'uuid', 'index'"),
        ({"allocationPolicy": "random"}, "/allocationPolicy", "'packed', 'distributed'"),
        (
            {"sharedDevicesAllocationPolicy": "x"},
            "/sharedDevicesAllocationPolicy",
            "'distributed', 'packed'",
        ),
        ({"logLevel": "loud"}, "/logLevel", "'debug', 'info', 'warning', 'error'"),
        ({"logFormat": "xml"}, "/logFormat", "'json', 'console'"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest", "does not match pattern"),
        ({"image": {"repository": ""}}, "/image/repository", "minLength"),
        (
            {"simulation": {"node": "p4d.24xlarge all"}},
            "/simulation/node",
            "does not match pattern",
        ),
        ({"tolerations": [{"effect": "Never"}]}, "/tolerations/0/effect", "'NoSchedule'"),
        (
            {"updateStrategy": {"type": "Recreate"}},
            "/updateStrategy/type",
            "'RollingUpdate', 'OnDelete'",
        ),
        ({"affinity": {"nodeSelectorTerms": []}}, "/affinity", "not allowed"),
        ({"nodeSelector": {"gpu": True}}, "/nodeSelector/gpu", "want string"),
        ({"driver": None}, "", "missing property 'driver'"),
        ({"disableHealthChecks": "xid"}, "/disableHealthChecks", "does not match pattern"),
        ({"quietPeriod": "60s"}, "/quietPeriod", "want null or number"),
        ({"escalateCount": 1001}, "/escalateCount", "maximum"),
        ({"ledger": {"hostpath": "/a"}}, "/ledger", "'hostpath' not allowed"),
        ({"http": {"port": "9400"}}, "/http/port", "want integer"),
        ({"http": {"port": 70000}}, "/http/port", "maximum"),
        ({"http": {"address": "0.0.0.0:9400"}}, "/http/address", "does not match pattern"),
        ({"http": {"livenessProbe": {"path": "/"}}}, "/http/livenessProbe", "'path' not allowed"),
        ({"metrics": {"sampleInterval": 0}}, "/metrics/sampleInterval", "minimum"),
        ({"podMonitor": {"interval": "15"}}, "/podMonitor/interval", "does not match pattern"),
        (
            {"prometheusRule": {"alerts": {"MigPluginDown": {"for": 5}}}},
            "/prometheusRule/alerts/MigPluginDown",
            "for",
        ),
        (
            {"prometheusRule": {"faultStorm": {"count": 0}}},
            "/prometheusRule/faultStorm/count",
            "minimum",
        ),
        (
            {"networkPolicy": {"namespaces": "monitoring"}},
            "/networkPolicy/namespaces",
            "want array",
        ),
    ],
)
def test_schema_names_the_place_and_the_choices(
    render: "Renderer", values: dict[str, Any], place: str, says: str
) -> None:
    message = render.refusal(values)
    assert f"- at '{place}" in message
    assert says in message


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"driver": {"access": "simulation"}}, "--set simulation.node=p4d.24xlarge:all-1g.5gb"),
        (
            {"simulation": {"node": "p4d.24xlarge"}},
            "set driver.access=simulation for a simulated node",
        ),
        (SIMULATION | {"passDeviceSpecs": True}, "Leave passDeviceSpecs unset"),
        (
            SIMULATION
            | {
                "config": {
                    "inline": {"version": "v1", "flags": {"plugin": {"passDeviceSpecs": True}}}
                }
            },
            "Leave passDeviceSpecs unset",
        ),
        (
            {"driver": {"access": "host", "root": "run/nvidia"}},
            'driver.root is "run/nvidia": set it to an absolute',
        ),
        ({"driver": {"root": "/run/../nvidia"}}, 'driver.root is "/run/../nvidia"'),
        ({"driver": {"devRoot": "dev"}}, 'driver.devRoot is "dev": set it to an absolute'),
        ({"kubelet": {"root": "kubelet"}}, 'kubelet.root is "kubelet": set it to an absolute'),
        (
            {"config": {"inline": {"version": "v1"}, "existingConfigMap": "mine"}},
            "are both set: keep one",
        ),
        (
            {"config": {"inline": {"version": "v2"}}},
            "config.inline has `version: v2`: write v1, the daemon reads no other version",
        ),
        (
            {
                "migStrategy": "mixed",
                "config": {"inline": {"version": "v1", "flags": {"migStrategy": "single"}}},
            },
            "migStrategy and config.inline's flags.migStrategy are both set: keep one",
        ),
        (
            {
                "passDeviceSpecs": False,
                "config": {
                    "inline": {"version": "v1", "flags": {"plugin": {"passDeviceSpecs": True}}}
                },
            },
            (
                "passDeviceSpecs and config.inline's flags.plugin.passDeviceSpecs are both set: "
                "keep one"
            ),
        ),
        ({"singleResource": "gpu"}, "which is mixed here: set migStrategy=single"),
        (
            {"extraArgs": ["--simulate=p4d.24xlarge"]},
            "set driver.access=simulation and simulation.node instead",
        ),
        (
            {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
            "extraEnv has A twice: keep one",
        ),
        (
            {"extraEnv": [{"name": "SIMULATE", "value": "p4d"}]},
            "set driver.access=simulation and simulation.node instead",
        ),
        ({"updateStrategy": {"type": "OnDelete"}}, "set updateStrategy.rollingUpdate=null"),
        (
            {"ledger": {"hostPath": "var/lib"}},
            'ledger.hostPath is "var/lib": set it to an absolute path on the host',
        ),
        (
            {"extraEnv": [{"name": "HTTP_ADDRESS", "value": ""}]},
            "set http.address and http.port instead",
        ),
        ({"extraArgs": ["--http-address="]}, "set the values below http instead"),
        (
            {"config": {"inline": {"version": "v1", "flags": {"plugin": {"httpTLSCert": "/a"}}}}},
            "config.inline sets flags.plugin.httpTLSCert: set the values below http instead",
        ),
        (
            {
                "metrics": {"dcgmNames": False},
                "config": {"inline": {"version": "v1", "flags": {"plugin": {"dcgmNames": True}}}},
            },
            "metrics.dcgmNames and config.inline's flags.plugin.dcgmNames are both set: keep one",
        ),
        (
            {"kubelet": {"devicePluginDir": "device-plugins"}},
            'kubelet.devicePluginDir is "device-plugins": set it to an absolute',
        ),
        (
            {"kubelet": {"podResourcesDir": "/var/../x"}},
            'kubelet.podResourcesDir is "/var/../x": set it to an absolute',
        ),
        ({"enabled": False}, "`condition: mig-device-plugin.enabled`"),
        (
            {"http": {"enabled": False, "rbacProxy": {"enabled": True}}},
            "set http.enabled=true, or http.rbacProxy.enabled=false",
        ),
        (
            {"http": {"enabled": False, "token": {"secretName": "a"}}},
            "leave http.token.secretName empty",
        ),
        (
            {"http": {"rbacProxy": {"enabled": True}, "token": {"secretName": "a"}}},
            "keep one, the proxy already decides who may read",
        ),
        (
            {"config": {"inline": {"flags": {"plugin": {"httpHosts": "a"}}}}},
            "config.inline sets flags.plugin.httpHosts: set the values below http instead",
        ),
        (
            {"config": {"inline": {"flags": {"plugin": {"httpTokenFile": "/a"}}}}},
            "config.inline sets flags.plugin.httpTokenFile: set the values below http instead",
        ),
        (
            {"http": {"rbacProxy": {"enabled": True, "port": 9400}}},
            "are both 9400 in one pod: change one",
        ),
        (
            {"http": {"address": "0.0.0.0", "rbacProxy": {"enabled": True}}},  # noqa: S104
            "leave http.address empty",
        ),
        (
            {
                "http": {"rbacProxy": {"enabled": True}},
                "podMonitor": {"enabled": True, "tlsConfig": {"insecureSkipVerify": True}},
            },
            "needs podMonitor.authorization: set it to",
        ),
        (
            {
                "http": {"rbacProxy": {"enabled": True}},
                "podMonitor": {"enabled": True, "authorization": {"credentials": {}}},
            },
            "needs podMonitor.tlsConfig",
        ),
        (
            {"http": {"address": "127.0.0.1"} | NO_PROBES, "podMonitor": {"enabled": True}},
            "set http.rbacProxy.enabled=true, or podMonitor.enabled=false",
        ),
        ({"http": {"address": "127.0.0.1"}}, "leave it empty, or set http.enabled=false"),
        ({"http": {"address": "::1"}}, "leave it empty, or set http.enabled=false"),
        (
            {"http": {"enabled": False, "tls": {"secretName": "a"}}},
            "set http.enabled=true, or leave http.tls.secretName empty",
        ),
        *(
            (
                {"http": {"enabled": False}, part: {"enabled": True}},
                f"set http.enabled=true, or {part}.enabled=false",
            )
            for part in ("podMonitor", "prometheusRule", "dashboard")
        ),
        (
            {"http": {"tls": {"secretName": "a"}}, "podMonitor": {"enabled": True}},
            (
                "needs podMonitor.tlsConfig, since a certificate seldom names a pod's address: set "
                "it to"
            ),
        ),
        (
            {"podMonitor": {"tlsConfig": {"insecureSkipVerify": True}}},
            "leave podMonitor.tlsConfig empty",
        ),
        (
            {"networkPolicy": {"enabled": True}},
            "set networkPolicy.namespaces to where Prometheus runs",
        ),
        (
            {"prometheusRule": {"alerts": {"MigDeviceUp": {}}}},
            "which is no alert of this chart: choose MigPluginDown",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_the_fix(
    render: "Renderer", values: dict[str, Any], says: str
) -> None:
    message = render.refusal(values)
    assert "The values of this chart need a change:" in message
    assert says in message
    assert message.count("\n  - ") == 1, "one mistake, one line"


def test_all_mistakes_are_told_at_once(render: "Renderer") -> None:
    message = render.refusal(
        {"nfd": {"master": {}}, "kubelet": {"root": "kubelet"}, "singleResource": "gpu"}
    )
    assert message.count("\n  - ") == 3


def test_unknown_access_is_refused_without_the_schema_too(chart_path: Path, tmp_path: Path) -> None:
    """As with ``--skip-schema-validation``, which some deployment tools use."""
    copy = shutil.copytree(
        chart_path, tmp_path / "chart", ignore=shutil.ignore_patterns("values.schema.json")
    )
    with (
        helm_python.Chart.load(copy) as chart,
        pytest.raises(helm_python.HelmRenderError) as refused,
    ):
        chart.render({"driver": {"access": "magic"}})
    assert 'driver.access is "magic": set it to runtime, host or simulation.' in str(refused.value)
