{{/*
Values of NVIDIA's chart (k8s-device-plugin 0.20) that have another name or no meaning here, and what to do instead.
Those left empty or at that chart's own default, as in a copy of its values.yaml, say nothing and pass.
*/}}
{{- define "mig-device-plugin.foreignTable" -}}
- {value: config.fallbackStrategies, default: [named, single], fix: "leave it out; without config.default a node takes the configuration called default, or the only one"}
- {value: imagePullSecrets, fix: "set image.pullSecrets"}
- {value: nvidiaDriverRoot, fix: "set driver.root"}
- {value: compatWithCPUManager, fix: "set passDeviceSpecs, which is true by default"}
- {value: deviceDiscoveryStrategy, fix: "leave it out, devices are always found through NVML"}
- {value: selectorLabelsOverride, fix: "set nameOverride, or podLabels for further labels"}
- {value: componentSelectorLabels.enabled, fix: "leave it out, there is only one component"}
- {value: allowDefaultNamespace, fix: "leave it out, any namespace will do"}
- {value: devicePlugin.enableHostNetwork, fix: "set hostNetwork"}
- {value: devicePlugin.containers, default: {main: {env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}, {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}]}}, fix: "set extraEnv"}
- {value: gfd.enabled, fix: "leave it out; the daemon itself writes these labels with nodeLabels.mode=api or nfd"}
- {value: gfd.noTimestamp, fix: "leave it out, the labels have no time stamp"}
- {value: gfd.sleepInterval, fix: "leave it out, the labels are written when they change"}
- {value: nfd.enabled, fix: "leave it out; install Node Feature Discovery with its own chart, or set gpuNodesOnly=false"}
- {value: mps, default: {root: /run/nvidia/mps, enableHostPID: true}, fix: "leave it out, MPS is not supported; time slicing is sharing.timeSlicing in config.inline"}
- {value: cdi.nvidiaHookPath, fix: "set cdi.hookPath"}
- {value: cdi.featureFlags, fix: "leave it out, NVIDIA's generator is not used; docs/cdi.md says what the specification has"}
{{- end -}}

{{/* Mistakes, as a JSON list. */}}
{{- define "mig-device-plugin.foreignMistakes" -}}
{{- $root := . -}}
{{- $mistakes := list -}}
{{- range include "mig-device-plugin.foreignTable" . | fromYamlArray -}}
{{- $given := get (include "mig-device-plugin.setValue" (list $root .value) | default "{}" | fromJson) "v" -}}
{{- if and $given (ne (toJson $given) (toJson .default)) -}}
{{- $mistakes = append $mistakes (printf "%s is a value of NVIDIA's chart: %s." .value .fix) -}}
{{- end -}}
{{- end -}}
{{- if eq (include "mig-device-plugin.setValue" (list $root "devicePlugin.enabled")) "{\"v\":false}" -}}
{{- $mistakes = append $mistakes "devicePlugin.enabled is a value of NVIDIA's chart: leave it out, the device plugin is all that this chart installs." -}}
{{- end -}}
{{- toJson $mistakes -}}
{{- end -}}
