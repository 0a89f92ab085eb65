{{/*
The daemon's options, one a line: value of this chart, environment variable, place in the configuration file (absent:
it has none), the chart's own default (absent: the daemon decides), and whether that holds beside a ConfigMap of the user's
too (a simulated device node in an answer to kubelet would keep every pod from starting; driver.access=cdi is for CDI).
*/}}
{{- define "mig-device-plugin.optionTable" -}}
- {value: migStrategy, env: MIG_STRATEGY, file: flags.migStrategy, default: mixed}
- {value: singleResource, env: SINGLE_RESOURCE, file: flags.plugin.singleResource}
- {value: failOnInitError, env: FAIL_ON_INIT_ERROR, file: flags.failOnInitError, default: false}
- {value: passDeviceSpecs, env: PASS_DEVICE_SPECS, file: flags.plugin.passDeviceSpecs, default: {{ ne .Values.driver.access "simulation" }}, always: {{ eq .Values.driver.access "simulation" }}}
- {value: deviceListStrategy, env: DEVICE_LIST_STRATEGY, file: flags.plugin.deviceListStrategy{{ if eq .Values.driver.access "cdi" }}, default: cdi-cri, always: true{{ end }}}
- {value: deviceIDStrategy, env: DEVICE_ID_STRATEGY, file: flags.plugin.deviceIDStrategy}
- {value: allocationPolicy, env: ALLOCATION_POLICY, file: flags.plugin.allocationPolicy}
- {value: sharedDevicesAllocationPolicy, env: SHARED_DEVICES_ALLOCATION_POLICY, file: flags.plugin.sharedDevicesAllocationPolicy}
- {value: cudaVisibleDevices, env: SET_CUDA_VISIBLE_DEVICES, file: flags.plugin.cudaVisibleDevices}
- {value: gdrcopyEnabled, env: GDRCOPY_ENABLED, file: flags.gdrcopyEnabled}
- {value: gdsEnabled, env: GDS_ENABLED, file: flags.gdsEnabled}
- {value: mofedEnabled, env: MOFED_ENABLED, file: flags.mofedEnabled}
- {value: cdi.vendor, env: CDI_VENDOR, file: flags.plugin.cdiVendor}
- {value: cdi.annotationPrefix, env: CDI_ANNOTATION_PREFIX, file: flags.plugin.cdiAnnotationPrefix}
- {value: cdi.hookPath, env: NVIDIA_CDI_HOOK_PATH, file: flags.plugin.nvidiaCTKPath}
- {value: disableHealthChecks, env: DP_DISABLE_HEALTHCHECKS, file: flags.plugin.disableHealthChecks}
- {value: enableHealthChecks, env: DP_ENABLE_HEALTHCHECKS, file: flags.plugin.enableHealthChecks}
- {value: quietPeriod, env: QUIET_PERIOD, file: flags.plugin.quietPeriod}
- {value: escalateCount, env: ESCALATE_COUNT, file: flags.plugin.escalateCount}
- {value: escalateWindow, env: ESCALATE_WINDOW, file: flags.plugin.escalateWindow}
- {value: probeInterval, env: PROBE_INTERVAL, file: flags.plugin.probeInterval}
- {value: logLevel, env: LOG_LEVEL}
- {value: logFormat, env: LOG_FORMAT}
- {value: metrics.dcgmNames, env: DCGM_NAMES, file: flags.plugin.dcgmNames}
- {value: metrics.sampleInterval, env: SAMPLE_INTERVAL, file: flags.plugin.sampleInterval}
{{- end -}}

{{/* A value at a dotted place, as JSON; empty when it is unset. Takes (list root place). */}}
{{- define "mig-device-plugin.setValue" -}}
{{- $here := (index . 0).Values -}}
{{- range splitList "." (index . 1) -}}
{{- $here = ternary (index (ternary $here dict (kindIs "map" $here)) .) nil (kindIs "map" $here) -}}
{{- end -}}
{{- if not (kindIs "invalid" $here) -}}{{- dict "v" $here | toJson -}}{{- end -}}
{{- end -}}

{{/* What config.inline says at a dotted place, as JSON; empty when it says nothing. Takes (list root place). */}}
{{- define "mig-device-plugin.inInlineConfig" -}}
{{- $root := index . 0 -}}
{{- $here := $root.Values.config.inline | default dict -}}
{{- range splitList "." (index . 1 | default "-") -}}
{{- $here = ternary (index (ternary $here dict (kindIs "map" $here)) .) nil (kindIs "map" $here) -}}
{{- end -}}
{{- if not (kindIs "invalid" $here) -}}{{- toJson $here -}}{{- end -}}
{{- end -}}

{{/*
What every configuration that the chart knows says at a dotted place: a JSON list of {name, value}. Takes (list root place).
*/}}
{{- define "mig-device-plugin.inConfigs" -}}
{{- $root := index . 0 -}}
{{- $place := index . 1 | default "-" -}}
{{- $configs := dict -}}
{{- with $root.Values.config.inline -}}{{- $_ := set $configs "config.inline" . -}}{{- end -}}
{{- range $name, $config := $root.Values.config.map -}}
{{- $_ := set $configs (printf "config.map.%s" $name) (kindIs "string" $config | ternary (fromYaml (toString $config)) $config) -}}
{{- end -}}
{{- $found := list -}}
{{- range $name, $here := $configs -}}
{{- range splitList "." $place -}}
{{- $here = ternary (index (ternary $here dict (kindIs "map" $here)) .) nil (kindIs "map" $here) -}}
{{- end -}}
{{- if not (kindIs "invalid" $here) -}}{{- $found = append $found (dict "name" $name "value" $here) -}}{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/*
Options as environment variables. A set value always counts. An unset one gets the chart's default only where no file can
say otherwise, since the environment wins over the file.
*/}}
{{- define "mig-device-plugin.optionEnv" -}}
{{- $root := . -}}
{{- $unknown := include "mig-device-plugin.unknownConfig" . -}}
{{- range include "mig-device-plugin.optionTable" . | fromYamlArray -}}
{{- $value := get (include "mig-device-plugin.setValue" (list $root .value) | default "{\"v\":null}" | fromJson) "v" -}}
{{- if and (kindIs "invalid" $value) (hasKey . "default") (or .always (not $unknown)) -}}
{{- if not (include "mig-device-plugin.inInlineConfig" (list $root .file)) -}}
{{- $value = .default -}}
{{- end -}}
{{- end -}}
{{- if not (kindIs "invalid" $value) }}
- name: {{ .env }}
  value: {{ kindIs "slice" $value | ternary (join "," $value) (toString $value) | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The strategy in force, for privileges and NOTES; empty when this chart cannot know it. An argument wins over a variable, a
variable over the file.
*/}}
{{- define "mig-device-plugin.strategy" -}}
{{- $inline := include "mig-device-plugin.inInlineConfig" (list . "flags.migStrategy") -}}
{{- $arguments := regexReplaceAll "--mig-strategy,([^,]*)" (join "," (.Values.extraArgs | default list)) "--mig-strategy=${1}" -}}
{{- $argument := regexFindAll "--mig-strategy=[^,]*" $arguments -1 | last | default "" -}}
{{- $variable := dict -}}
{{- range .Values.extraEnv -}}{{- if eq .name "MIG_STRATEGY" -}}{{- $variable = . -}}{{- end -}}{{- end -}}
{{- if $argument -}}
{{- trimPrefix "--mig-strategy=" $argument -}}
{{- else if $variable -}}
{{- $variable.value | default "" -}}
{{- else if .Values.migStrategy -}}
{{- .Values.migStrategy -}}
{{- else if $inline -}}
{{- fromJson (printf "{\"v\":%s}" $inline) | dig "v" "" -}}
{{- else if not (include "mig-device-plugin.unknownConfig" .) -}}
mixed
{{- end -}}
{{- end -}}
