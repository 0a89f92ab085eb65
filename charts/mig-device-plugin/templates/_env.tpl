{{/* The container's environment. A variable of extraEnv takes the place of the chart's own. */}}
{{- define "mig-device-plugin.env" -}}
{{- $chart := include "mig-device-plugin.chartEnv" . | fromYamlArray -}}
{{- $replaced := list -}}
{{- range .Values.extraEnv -}}{{- $replaced = append $replaced .name -}}{{- end -}}
{{- $env := list -}}
{{- range $chart -}}{{- if not (has .name $replaced) -}}{{- $env = append $env . -}}{{- end -}}{{- end -}}
{{- toYaml (concat $env (.Values.extraEnv | default list)) -}}
{{- end -}}

{{- define "mig-device-plugin.chartEnv" -}}
# Page, metrics and log name the node by it; the host name is the pod's, new with each restart.
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{ include "mig-device-plugin.driverEnv" . | trim }}
{{- with include "mig-device-plugin.optionEnv" . | trim }}
{{ . }}
{{- end }}
{{ include "mig-device-plugin.httpEnv" . }}
{{- with include "mig-device-plugin.clusterEnv" . | trim }}
{{ . }}
{{- end }}
{{- with include "mig-device-plugin.partitionEnv" . | trim }}
{{ . }}
{{- end }}
{{- if include "mig-device-plugin.severalConfigs" . }}
- name: CONFIG_DIR
  value: /config
{{- with .Values.config.label }}
- name: CONFIG_LABEL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.config.default }}
- name: CONFIG_DEFAULT
  value: {{ . | quote }}
{{- end }}
{{- else if include "mig-device-plugin.configMapName" . }}
- name: CONFIG_FILE
  value: /config/config.yaml
{{- end }}
{{- if and (ne .Values.driver.access "simulation") (not .Values.ledger.hostPath) }}
- name: LEDGER_FILE
  value: /run/mig-device-plugin/ledger.json
{{- end }}
# The root file system is read-only.
- name: TMPDIR
  value: /run/mig-device-plugin
{{- end -}}
