"""The chart, rendered by Helm's own engine (its Go SDK as a library),
and manifests picked apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "mig-device-plugin"

Manifest = dict[str, Any]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Release:
    """What one set of values renders to."""

    manifests: tuple[Manifest, ...]
    notes: str

    def of_kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    @property
    def daemonset(self) -> Manifest:
        (daemonset,) = self.of_kind("DaemonSet")
        return daemonset

    @property
    def pod(self) -> Manifest:
        """The pod's specification."""
        spec: Manifest = self.daemonset["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        """The daemon's."""
        (container,) = (
            item for item in self.pod["containers"] if item["name"] == "mig-device-plugin"
        )
        found: Manifest = container
        return found

    @property
    def env(self) -> dict[str, str]:
        """The variables whose values stand in the manifest; none is set twice."""
        names = [variable["name"] for variable in self.container["env"]]
        assert len(names) == len(set(names)), f"a variable is set twice: {names}"
        return {
            variable["name"]: variable["value"]
            for variable in self.container["env"]
            if "valueFrom" not in variable
        }

    @property
    def env_sources(self) -> dict[str, Manifest]:
        """The variables whose values Kubernetes fills in, and where from."""
        return {
            variable["name"]: variable["valueFrom"]
            for variable in self.container["env"]
            if "valueFrom" in variable
        }

    @property
    def host_mounts(self) -> dict[str, tuple[str, bool]]:
        """Path in the container -> (path on the host, read-only)."""
        host = {
            volume["name"]: volume["hostPath"]["path"]
            for volume in self.pod["volumes"]
            if "hostPath" in volume
        }
        return {
            mount["mountPath"]: (host[mount["name"]], mount.get("readOnly", False))
            for mount in self.container["volumeMounts"]
            if mount["name"] in host
        }


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders the chart as ``helm template`` does, schema included."""

    chart: helm_python.Chart

    def __call__(
        self, values: Values | None = None, *, name: str = "gpu", namespace: str = "kube-system"
    ) -> Release:
        files = self.chart.render(values or {}, name=name, namespace=namespace)
        documents = (
            document
            for path, text in files.items()
            if path.endswith(".yaml")
            for document in yaml.load_all(text, Loader=UniqueKeys)  # a SafeLoader
        )
        (notes,) = (text for path, text in files.items() if path.endswith("NOTES.txt"))
        return Release(tuple(document for document in documents if document), notes)

    def refusal(self, values: Values) -> str:
        """The message with which Helm refuses these values."""
        with pytest.raises(helm_python.HelmError) as refused:
            self(values)
        return str(refused.value)


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key written twice in one mapping, which PyYAML would let pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's signature
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is written twice: {keys}"
        return super().construct_mapping(node, deep=deep)


@pytest.fixture(scope="session")
def chart_path() -> Path:
    return CHART


@pytest.fixture(scope="session")
def render() -> Iterator[Renderer]:
    with helm_python.Chart.load(CHART) as chart:
        yield Renderer(chart)


SIMULATION: Values = {
    "driver": {"access": "simulation"},
    "simulation": {"node": "p4d.24xlarge:all-1g.5gb"},
}

# Every access, and every branch of the templates, by name.
CASES: dict[str, Values] = {
    "runtime": {},
    "runtime-driver-container": {"driver": {"root": "/run/nvidia/driver", "devRoot": "/"}},
    "host": {"driver": {"access": "host"}},
    "token": {
        "http": {"hosts": ["*.example.com"], "token": {"secretName": "tokens", "key": "metrics"}},
        "podMonitor": {"enabled": True},
    },
    "host-driver-container": {"driver": {"access": "host", "root": "/run/nvidia/driver"}},
    "host-separate-dev": {
        "driver": {"access": "host", "root": "/run/nvidia/driver", "devRoot": "/"}
    },
    "simulation": SIMULATION,
    "simulation-inline": SIMULATION
    | {"config": {"inline": {"version": "v1", "flags": {"migStrategy": "single"}}}},
    "existing-config": {"config": {"existingConfigMap": "mine", "key": "node.yaml"}},
    "all-options": {
        "migStrategy": "single",
        "singleResource": "gpu",
        "failOnInitError": True,
        "passDeviceSpecs": False,
        "deviceListStrategy": ["envvar", "volume-mounts"],
        "deviceIDStrategy": "index",
        "allocationPolicy": "distributed",
        "sharedDevicesAllocationPolicy": "packed",
        "cudaVisibleDevices": False,
        "cdi": {
            "vendor": "k8s.device-plugin.nvidia.com",
            "annotationPrefix": "nvidia.cdi.k8s.io/",
            "hookPath": "/usr/bin/nvidia-ctk",
        },
        "gdrcopyEnabled": True,
        "gdsEnabled": True,
        "mofedEnabled": True,
        "disableHealthChecks": [13, 31],
        "enableHealthChecks": "xids",
        "quietPeriod": 90,
        "escalateCount": 0,
        "escalateWindow": 30.5,
        "probeInterval": 1,
        "logLevel": "debug",
        "logFormat": "console",
        "metrics": {"dcgmNames": True, "sampleInterval": 2.5},
    },
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "kps"}},
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "kps"},
            "alertLabels": {"team": "gpu"},
        },
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "GPU"}},
        "networkPolicy": {"enabled": True, "namespaces": ["monitoring"]},
    },
    "tls": {
        "http": {"tls": {"secretName": "certificate"}},
        "podMonitor": {
            "enabled": True,
            "scrapeTimeout": "5s",
            "tlsConfig": {"insecureSkipVerify": True},
        },
    },
    "rbac-proxy": {
        "http": {"rbacProxy": {"enabled": True}, "tls": {"secretName": "certificate"}},
        "podMonitor": {
            "enabled": True,
            "authorization": {"credentials": {"name": "prometheus-token", "key": "token"}},
            "tlsConfig": {"serverName": "gpu", "ca": {"secret": {"name": "ca", "key": "ca.crt"}}},
        },
        "networkPolicy": {"namespaces": ["monitoring"]},
    },
    "loopback": {
        "http": {
            "address": "127.0.0.1",
            "startupProbe": {"enabled": False},
            "livenessProbe": {"enabled": False},
            "readinessProbe": {"enabled": False},
        }
    },
    "no-ledger": {"ledger": {"hostPath": ""}},
    "cdi": {
        "driver": {"access": "cdi", "root": "/run/nvidia/driver"},
        "deviceListStrategy": ["cdi-cri", "cdi-annotations"],
        "cdi": {
            "directory": "/etc/cdi",
            "vendor": "k8s.device-plugin.nvidia.com",
            "annotationPrefix": "nvidia.cdi.k8s.io/",
            "hookPath": "/usr/bin/nvidia-cdi-hook",
        },
    },
    "cdi-under-runtime": {"deviceListStrategy": "cdi-cri", "driver": {"devRoot": "/srv"}},
    "features-file": {"nodeLabels": {"mode": "nfd"}},
    "clean-up": {"nodeCleanUp": True, "nodeLabels": {"featuresFolder": "/srv/features.d/"}},
    "cluster": {
        "nodeLabels": {"mode": "api"},
        "nodeEvents": True,
        "nodeCondition": "MigDevicesHealthy",
        "nodeTaint": "nvidia.com/gpu-needs-reset:NoSchedule",
        "startupTaint": "example.com/gpu-starting=yes:NoExecute",
        "admissionPolicy": {"enabled": True},
        "networkPolicy": {
            "namespaces": ["monitoring"],
            "apiServer": {"ports": [16443], "cidrs": ["10.0.0.10/32", "fd00::1/128"]},
        },
    },
    "partition": {
        "partition": {
            "enabled": True,
            "config": "mine",
            "inline": {
                "version": "v1",
                "mig-configs": {"mine": [{"devices": "all", "mig-enabled": False}]},
            },
            "inUse": "evict",
        }
    },
    "partition-host": {
        "driver": {"access": "host"},
        "partition": {"enabled": True, "label": "", "existingConfigMap": "mine", "hostPID": True},
    },
    "several-configs": {
        "config": {
            "map": {
                "default": {"version": "v1"},
                "whole": "version: v1\nflags:\n  migStrategy: none\n",
            },
            "default": "whole",
        }
    },
    "named-configs": {"config": {"name": "configs", "label": ""}},
    "no-http": {"http": {"enabled": False}, "networkPolicy": {"enabled": True}},
    "whole-gpus": {"migStrategy": "none"},
    "default-runtime": {"runtimeClassName": ""},
    "kubelet-elsewhere": {
        "kubelet": {
            "root": "/srv/kubelet",
            "devicePluginDir": "/var/lib/kubelet/device-plugins",
            "podResourcesDir": "/srv/pod-resources",
        }
    },
    "simulation-existing-config": SIMULATION | {"config": {"existingConfigMap": "mine"}},
    "asked-for": {
        "namespaceOverride": "kube-system",
        "hostNetwork": True,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.10"]},
        "annotations": {"reloader.stakater.com/auto": "true"},
        "securityContext": {"seLinuxOptions": {"type": "spc_t"}},
        "driver": {"root": "/run/nvidia/driver", "mountPropagation": "None"},
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more", "readOnly": True}],
    },
    "everything-else": {
        "nameOverride": "mig",
        "image": {
            "repository": "registry.example/mig",
            "digest": "sha256:" + "a" * 64,
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
        },
        "extraArgs": ["--log-level=debug"],
        "extraEnv": [{"name": "A", "value": "b"}],
        "serviceAccount": {"annotations": {"a": "b"}},
        "affinity": {"nodeAffinity": {}, "podAffinity": {}},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"operator": "Exists"}],
        "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "ml"},
        "podSecurityContext": {"seLinuxOptions": {"type": "spc_t"}},
    },
    "nothing-optional": {
        "resources": {"requests": None, "limits": None},
        "tolerations": [],
        "priorityClassName": "",
        "gpuNodesOnly": False,
        "serviceAccount": {"create": False},
    },
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Values:
    """Each of the cases in turn."""
    return CASES[request.param]


@pytest.fixture(scope="session")
def cases() -> dict[str, Values]:
    return CASES
