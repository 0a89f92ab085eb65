{{/* Partitioning: the daemon's options and the file of configurations. */}}

{{/* Name of the ConfigMap with the file; empty when there is none. */}}
{{- define "mig-device-plugin.partitionConfigMap" -}}
{{- if .Values.partition.enabled -}}
{{- if .Values.partition.existingConfigMap -}}
{{- .Values.partition.existingConfigMap -}}
{{- else if .Values.partition.inline -}}
{{- printf "%s-partition" (include "mig-device-plugin.fullname" . | trunc 53 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.partitionEnv" -}}
{{- if .Values.partition.enabled }}
- name: PARTITION_IN_USE
  value: {{ .Values.partition.inUse }}
- name: PARTITION_MIG_MODE
  value: {{ .Values.partition.migMode | quote }}
{{- with .Values.partition.label }}
- name: PARTITION_LABEL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.partition.config }}
- name: PARTITION_CONFIG
  value: {{ . | quote }}
{{- end }}
{{- if include "mig-device-plugin.partitionConfigMap" . }}
- name: PARTITION_FILE
  value: /partition/config.yaml
{{- end }}
{{- end }}
{{- end -}}

{{/* Mistakes, as a JSON list. */}}
{{- define "mig-device-plugin.partitionMistakes" -}}
{{- $p := .Values.partition -}}
{{- $mistakes := list -}}
{{- if not $p.enabled -}}
{{- range list "config" "inline" "existingConfigMap" "hostPID" -}}
{{- if index $p . -}}
{{- $mistakes = append $mistakes (printf "partition.%s is set with partition.enabled=false: set partition.enabled=true, or leave partition.%s unset." . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $p.inline $p.existingConfigMap -}}
{{- $mistakes = append $mistakes "partition.inline and partition.existingConfigMap are both set: keep one, they are two sources of the same file." -}}
{{- end -}}
{{- if $p.inline -}}
{{- if ne (get $p.inline "version" | default "v1" | toString) "v1" -}}
{{- $mistakes = append $mistakes (printf "partition.inline has `version: %v`: write v1, the daemon reads no other version." (get $p.inline "version")) -}}
{{- end -}}
{{- if not (get $p.inline "mig-configs") -}}
{{- $mistakes = append $mistakes "partition.inline has no mig-configs: write the configurations below mig-configs, as docs/partitioning.md shows." -}}
{{- end -}}
{{- end -}}
{{- toJson $mistakes -}}
{{- end -}}
