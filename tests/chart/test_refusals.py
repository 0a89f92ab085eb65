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
        (
            {"driver": {"access": "magic"}},
            "/driver/access",
            "'runtime', 'host', 'cdi', 'simulation'",
        ),
        ({"driver": {"acess": "host"}}, "/driver", "'acess' not allowed"),
        ({"migstrategy": "mixed"}, "", "'migstrategy' not allowed"),
        ({"migStrategy": "both"}, "/migStrategy", "'none', 'single', 'mixed'"),
        ({"singleResource": "mig"}, "/singleResource", "'profile', 'gpu'"),
        ({"failOnInitError": "false"}, "/failOnInitError", "got string, want"),
        ({"deviceListStrategy": "cdi"}, "/deviceListStrategy", "'cdi-cri', 'cdi-annotations'"),
        ({"cdi": {"vendor": "example.com"}}, "/cdi/vendor", "'nvidia.com'"),
        ({"nodeLabels": {"mode": "gfd"}}, "/nodeLabels/mode", "'none', 'api', 'nfd'"),
        ({"nodeCondition": "Ready"}, "/nodeCondition", "'not' failed"),
        ({"nodeTaint": "nvidia.com/gpu"}, "/nodeTaint", "does not match pattern"),
        ({"nodeTaint": "nvidia.com/gpu:NoRun"}, "/nodeTaint", "does not match pattern"),
        (
            {"startupTaint": "node.kubernetes.io/not-ready:NoExecute"},
            "/startupTaint",
            "'not' failed",
        ),
        ({"partition": {"inUse": "kill"}}, "/partition/inUse", "'wait', 'evict', 'refuse'"),
        ({"config": {"map": {"a/b": {}}}}, "/config/map", "'a/b' not allowed"),
        (
            {"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1"]}}},
            "/networkPolicy/apiServer/cidrs/0",
            "does not match pattern",
        ),
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
        *(
            (
                {"config": {"map": {"a30": {"flags": flags}}}},
                f"config.map.a30 sets flags.{said}",
            )
            for flags, said in (
                ({"nvidiaDriverRoot": "/run/nvidia/driver"}, "nvidiaDriverRoot to /run/nvidia/"),
                ({"nvidiaDevRoot": "/dev-root"}, "nvidiaDevRoot to /dev-root: set driver.devRoot"),
                ({"plugin": {"containerDriverRoot": "/host"}}, "plugin.containerDriverRoot to"),
                ({"plugin": {"cdiDirectory": "/etc/cdi"}}, "plugin.cdiDirectory to /etc/cdi: set"),
            )
        ),
        (
            {"config": {"inline": {"flags": {"nvidiaDriverRoot": "/run/nvidia/driver"}}}},
            "config.inline sets flags.nvidiaDriverRoot",
        ),
        (
            {
                "driver": {"access": "cdi"},
                "config": {
                    "map": {"default": {"flags": {"plugin": {"deviceListStrategy": "envvar"}}}}
                },
            },
            "no CDI strategy (config.map.default)",
        ),
        (
            {"config": {"map": {"a": {}, "b": {}}, "label": ""}},
            "nothing says which a node takes: set config.default to one of a, b, or config.label",
        ),
        (
            {"image": {"repository": "nvcr.io/nvidia/k8s-device-plugin"}},
            "image.repository is that of NVIDIA's plugin",
        ),
        ({"driver": {"root": "/run/../nvidia"}}, 'driver.root is "/run/../nvidia"'),
        ({"driver": {"devRoot": "dev"}}, 'driver.devRoot is "dev": set it to an absolute'),
        ({"kubelet": {"root": "kubelet"}}, 'kubelet.root is "kubelet": set it to an absolute'),
        (
            {"config": {"inline": {"version": "v1"}, "existingConfigMap": "mine"}},
            "config.inline and config.existingConfigMap are both set: keep one",
        ),
        (
            {"config": {"inline": {"version": "v1"}, "map": {"a": {}}, "name": "mine"}},
            "config.inline and config.map and config.name are all set: keep one",
        ),
        ({"config": {"default": "a"}}, "set config.map or config.name, or leave config.default"),
        (
            {"config": {"map": {"b": {}, "a": {}}, "default": "c"}},
            'config.default is "c", which is not in config.map: choose a, b.',
        ),
        (
            {"driver": {"access": "cdi"}, "deviceListStrategy": "envvar"},
            "set deviceListStrategy to cdi-cri or cdi-annotations, or leave it unset",
        ),
        (
            {
                "driver": {"access": "cdi"},
                "config": {
                    "inline": {"flags": {"plugin": {"deviceListStrategy": ["volume-mounts"]}}}
                },
            },
            "set deviceListStrategy to cdi-cri or cdi-annotations, or leave it unset",
        ),
        (SIMULATION | {"deviceListStrategy": ["cdi-cri"]}, "Leave deviceListStrategy unset"),
        ({"cdi": {"directory": "cdi"}}, 'cdi.directory is "cdi": set it to an absolute path'),
        ({"cdi": {"hookPath": "bin/hook"}}, 'cdi.hookPath is "bin/hook": set it to an absolute'),
        (
            {"nodeLabels": {"mode": "nfd", "featuresFolder": "features.d"}},
            'nodeLabels.featuresFolder is "features.d": set it to an absolute path',
        ),
        (
            {"extraEnv": [{"name": "NODE_EVENTS", "value": "true"}]},
            "extraEnv sets NODE_EVENTS: set nodeEvents instead",
        ),
        (
            {"extraArgs": ["--partition-config=all-balanced"]},
            "extraArgs has --partition-config=all-balanced: set partition.config instead",
        ),
        (
            {"config": {"inline": {"flags": {"plugin": {"featuresFile": "/a"}}}}},
            "config.inline sets flags.plugin.featuresFile: set nodeLabels.mode=nfd instead",
        ),
        (
            {"config": {"map": {"a": {"flags": {"plugin": {"nodeLabels": True}}}}}},
            "config.map.a sets flags.plugin.nodeLabels: set nodeLabels.mode=api instead",
        ),
        (
            {"config": {"map": {"a": "flags: {plugin: {partitionInUse: evict}}"}}},
            "config.map.a sets flags.plugin.partitionInUse: set partition.inUse instead",
        ),
        (
            {"config": {"map": {"a": {"flags": {"plugin": {"httpHosts": "a"}}}}}},
            "config.map.a sets flags.plugin.httpHosts: set the values below http instead",
        ),
        (
            {"nodeTaint": "a.b/c=d:NoSchedule", "startupTaint": "a.b/c:NoSchedule"},
            "choose another key or effect for one of them",
        ),
        ({"nodeCleanUp": True, "ledger": {"hostPath": ""}}, "set ledger.hostPath to the folder"),
        (SIMULATION | {"nodeCleanUp": True}, "nodeCleanUp=true needs the record"),
        (
            {"nodeEvents": True, "serviceAccount": {"create": False}},
            "name an account of its own, or set serviceAccount.create=true",
        ),
        (
            {"admissionPolicy": {"enabled": True}},
            "set nodeLabels.mode=api or another such feature, or admissionPolicy.enabled=false",
        ),
        *(
            ({"partition": {name: value}}, f"set partition.enabled=true, or leave partition.{name}")
            for name, value in {
                "config": "all-balanced",
                "inline": {"version": "v1", "mig-configs": {"a": []}},
                "existingConfigMap": "mine",
                "hostPID": True,
            }.items()
        ),
        (
            {
                "partition": {
                    "enabled": True,
                    "inline": {"mig-configs": {"a": []}},
                    "existingConfigMap": "mine",
                }
            },
            "partition.inline and partition.existingConfigMap are both set: keep one",
        ),
        (
            {"partition": {"enabled": True, "inline": {"version": "v2", "mig-configs": {"a": []}}}},
            "partition.inline has `version: v2`: write v1",
        ),
        (
            {"partition": {"enabled": True, "inline": {"version": "v1"}}},
            "write the configurations below mig-configs",
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
        {"nfd": {"enabled": True}, "kubelet": {"root": "kubelet"}, "singleResource": "gpu"}
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
    assert 'driver.access is "magic": set it to runtime, host, cdi or simulation.' in str(
        refused.value
    )
