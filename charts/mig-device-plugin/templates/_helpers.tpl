{{/* Names and labels. */}}

{{- define "mig-device-plugin.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "mig-device-plugin.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "mig-device-plugin.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "mig-device-plugin.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mig-device-plugin.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mig-device-plugin.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "mig-device-plugin.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: device-plugin
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "mig-device-plugin.serviceAccountName" -}}
{{- $fallback := ternary (include "mig-device-plugin.fullname" .) "default" .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default $fallback -}}
{{- end -}}

{{- define "mig-device-plugin.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Whether nodes choose one of several configurations, as with NVIDIA's chart (not empty). */}}
{{- define "mig-device-plugin.severalConfigs" -}}
{{- if or .Values.config.map .Values.config.name -}}yes{{- end -}}
{{- end -}}

{{/* The node label by which they do; empty: they do not. */}}
{{- define "mig-device-plugin.configLabel" -}}
{{- if include "mig-device-plugin.severalConfigs" . -}}{{- .Values.config.label | default "" -}}{{- end -}}
{{- end -}}

{{/* Whether there may be a configuration file whose content this chart does not know (not empty). */}}
{{- define "mig-device-plugin.unknownConfig" -}}
{{- if or .Values.config.existingConfigMap (include "mig-device-plugin.severalConfigs" .) -}}yes{{- end -}}
{{- end -}}

{{/* Name of the ConfigMap with the daemon's configuration; empty when there is none. */}}
{{- define "mig-device-plugin.configMapName" -}}
{{- if .Values.config.existingConfigMap -}}
{{- .Values.config.existingConfigMap -}}
{{- else if .Values.config.name -}}
{{- .Values.config.name -}}
{{- else if or .Values.config.inline .Values.config.map -}}
{{- include "mig-device-plugin.fullname" . -}}
{{- end -}}
{{- end -}}

{{/* Kubelet's directories on the host. */}}
{{- define "mig-device-plugin.devicePluginDir" -}}
{{- clean (.Values.kubelet.devicePluginDir | default (printf "%s/device-plugins" .Values.kubelet.root)) -}}
{{- end -}}
{{- define "mig-device-plugin.podResourcesDir" -}}
{{- clean (.Values.kubelet.podResourcesDir | default (printf "%s/pod-resources" .Values.kubelet.root)) -}}
{{- end -}}

{{/* Directory on the host whose dev/ holds the device nodes. */}}
{{- define "mig-device-plugin.devRoot" -}}
{{- clean (.Values.driver.devRoot | default .Values.driver.root) -}}
{{- end -}}
