{{/* What each driver.access needs: environment, mounts, volumes, security context. */}}

{{- define "mig-device-plugin.driverEnv" -}}
{{- if eq .Values.driver.access "runtime" }}
- name: NVIDIA_VISIBLE_DEVICES
  value: all
- name: NVIDIA_DRIVER_CAPABILITIES
  value: utility
{{- if include "mig-device-plugin.seesMig" . }}
- name: NVIDIA_MIG_MONITOR_DEVICES
  value: all
{{- end }}
- name: PROC_ROOT
  value: /host/proc
{{- else }}
# Where NVIDIA's runtime is the node's default, it must leave this container alone.
- name: NVIDIA_VISIBLE_DEVICES
  value: void
{{- end }}
{{- if eq .Values.driver.access "simulation" }}
# A variable, so that commands in the container take the same node as the daemon.
- name: SIMULATE
  value: {{ .Values.simulation.node | quote }}
{{- end }}
{{- if ne .Values.driver.access "simulation" }}
- name: NVIDIA_DRIVER_ROOT
  value: {{ clean .Values.driver.root | quote }}
- name: NVIDIA_DEV_ROOT
  value: {{ include "mig-device-plugin.devRoot" . | quote }}
- name: DRIVER_ROOT_CTR_PATH
  value: /driver-root
{{- with .Values.driver.libraryFolders }}
- name: LIBRARY_FOLDERS
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Whether the daemon has to see every MIG instance, which NVIDIA's runtime shows only to containers with SYS_ADMIN (not
empty), or only whole GPUs (empty). Where the strategy is not known here it may be any.
*/}}
{{- define "mig-device-plugin.seesMig" -}}
{{- if ne (include "mig-device-plugin.strategy" .) "none" -}}yes{{- end -}}
{{- end -}}

{{/*
Mounts follow the host where a driver container mounts its root later; on / that could fail for want of a shared mount.
Takes (list root path).
*/}}
{{- define "mig-device-plugin.propagation" -}}
{{- $propagation := (index . 0).Values.driver.mountPropagation | default (ternary "None" "HostToContainer" (eq (index . 1) "/")) -}}
{{- if ne $propagation "None" -}}
mountPropagation: {{ $propagation }}
{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.driverMounts" -}}
{{- $devRoot := include "mig-device-plugin.devRoot" . -}}
{{- $root := clean .Values.driver.root -}}
{{- if eq .Values.driver.access "runtime" }}
# The runtime's own /dev and /proc/driver are frozen when the container starts. These show today's nodes and minors; they
# are only looked at, the device cgroup lets nothing be opened through them.
- name: dev
  mountPath: /driver-root/dev
  readOnly: true
  {{- with include "mig-device-plugin.propagation" (list . $devRoot) }}
  {{ . }}
  {{- end }}
- name: proc-driver
  mountPath: /host/proc/driver
  readOnly: true
{{- else if eq .Values.driver.access "host" }}
- name: driver-root
  mountPath: /driver-root
  readOnly: true
  {{- with include "mig-device-plugin.propagation" (list . $root) }}
  {{ . }}
  {{- end }}
# NVML opens /dev/nvidia*. The runtime copies these nodes once, so a driver that comes later would stay unseen. Nothing is
# mounted on /driver-root/dev: a driver root without dev/ (GKE), mounted read-only, has no place for it.
- name: dev
  mountPath: /dev
  readOnly: true
  {{- with include "mig-device-plugin.propagation" (list . $devRoot) }}
  {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "mig-device-plugin.driverVolumes" -}}
{{- if ne .Values.driver.access "simulation" }}
- name: dev
  hostPath:
    path: {{ printf "%s/dev" (include "mig-device-plugin.devRoot" .) | clean | quote }}
    type: Directory
{{- end }}
{{- if eq .Values.driver.access "runtime" }}
- name: proc-driver
  hostPath:
    path: /proc/driver
    type: Directory
{{- else if eq .Values.driver.access "host" }}
- name: driver-root
  hostPath:
    path: {{ clean .Values.driver.root | quote }}
    type: Directory
{{- end }}
{{- end -}}

{{/* Root in every case: kubelet's socket directory belongs to root and is closed to others. */}}
{{- define "mig-device-plugin.securityContext" -}}
runAsUser: 0
runAsGroup: 0
readOnlyRootFilesystem: true
{{- if eq .Values.driver.access "host" }}
privileged: true
{{- else if eq .Values.driver.access "runtime" }}
privileged: false
{{- if include "mig-device-plugin.seesMig" . }}
# Kubernetes demands it together with SYS_ADMIN.
allowPrivilegeEscalation: true
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN]
{{- else }}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- else }}
privileged: false
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end -}}

{{- define "mig-device-plugin.affinity" -}}
{{- if .Values.affinity -}}
{{- toYaml .Values.affinity -}}
{{- else if and .Values.gpuNodesOnly (ne .Values.driver.access "simulation") -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms: # any of
      # Node Feature Discovery: an NVIDIA PCI device, or a system on chip by NVIDIA
      - matchExpressions:
          - {key: feature.node.kubernetes.io/pci-10de.present, operator: In, values: ["true"]}
      - matchExpressions:
          - {key: feature.node.kubernetes.io/cpu-model.vendor_id, operator: In, values: [NVIDIA]}
      # GPU Feature Discovery, the GPU operator, or an administrator
      - matchExpressions:
          - {key: nvidia.com/gpu.present, operator: In, values: ["true"]}
{{- end -}}
{{- end -}}
