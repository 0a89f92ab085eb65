{{/* What each driver.access needs: environment, mounts, volumes, security context. */}}

{{/*
Whether the daemon opens the device nodes in the host's own /dev, which only a privileged container may (not empty). Under
`cdi` too: a container runtime adds devices by CDI to containers to which kubelet allocates them, and this one is none.
*/}}
{{- define "mig-device-plugin.opensHost" -}}
{{- if has .Values.driver.access (list "host" "cdi") -}}yes{{- end -}}
{{- end -}}

{{/*
Whether a CDI specification may be written (not empty): any configuration, variable or argument may choose it. With a
ConfigMap that is not this chart's, only values say so.
*/}}
{{- define "mig-device-plugin.byCdi" -}}
{{- $chosen := list (.Values.deviceListStrategy | default list) (.Values.extraArgs | default list) -}}
{{- range include "mig-device-plugin.inConfigs" (list . "flags.plugin.deviceListStrategy") | fromJsonArray -}}
{{- $chosen = append $chosen .value -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if eq .name "DEVICE_LIST_STRATEGY" -}}{{- $chosen = append $chosen (.value | default "") -}}{{- end -}}
{{- end -}}
{{- if or (eq .Values.driver.access "cdi") (regexMatch "cdi-(cri|annotations)" (toJson $chosen)) -}}yes{{- end -}}
{{- end -}}

{{/* Keys of a configuration that the chart always decides itself, since its mounts follow, and what to do instead. */}}
{{- define "mig-device-plugin.decidedTable" -}}
- {file: flags.nvidiaDriverRoot, fix: set driver.root instead, is: {{ clean .Values.driver.root | quote }}}
- {file: flags.nvidiaDevRoot, fix: set driver.devRoot instead, is: {{ include "mig-device-plugin.devRoot" . | quote }}}
- {file: flags.plugin.containerDriverRoot, fix: leave it out, is: /driver-root}
- {file: flags.plugin.cdiDirectory, fix: set cdi.directory instead, is: {{ clean .Values.cdi.directory | quote }}}
{{- end -}}

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
{{- if .Values.partition.enabled }}
- name: NVIDIA_MIG_CONFIG_DEVICES
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
{{- if include "mig-device-plugin.byCdi" . }}
- name: CDI_DIRECTORY
  value: {{ clean .Values.cdi.directory | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Whether the daemon has to see every MIG instance, which NVIDIA's runtime shows only to containers with SYS_ADMIN (not
empty), or only whole GPUs (empty). Where the strategy is not known here it may be any. Partitioning sees them whatever the
strategy is.
*/}}
{{- define "mig-device-plugin.seesMig" -}}
{{- if or .Values.partition.enabled (ne (include "mig-device-plugin.strategy" .) "none") -}}yes{{- end -}}
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
{{- $apart := ne $devRoot $root -}}
{{- $byCdi := include "mig-device-plugin.byCdi" . -}}
{{- if and (eq .Values.driver.access "runtime") $byCdi }}
# The specification names the driver's files on the host, and the runtime shows a part of them.
{{- include "mig-device-plugin.driverRootMount" . }}
{{- end }}
{{- if and (eq .Values.driver.access "runtime") (or $apart (not $byCdi)) }}
# The runtime's own /dev and /proc/driver are frozen when the container starts. These show today's nodes and minors; they
# are only looked at, the device cgroup lets nothing be opened through them.
- name: dev
  mountPath: /driver-root/dev
  readOnly: {{ not .Values.partition.enabled }} # partitioning makes the nodes of new MIG devices
  {{- with include "mig-device-plugin.propagation" (list . $devRoot) }}
  {{ . }}
  {{- end }}
{{- end }}
{{- if eq .Values.driver.access "runtime" }}
- name: proc-driver
  mountPath: /host/proc/driver
  readOnly: true
{{- else if include "mig-device-plugin.opensHost" . }}
{{- include "mig-device-plugin.driverRootMount" . }}
# NVML opens /dev/nvidia*. The runtime copies these nodes once, so a driver that comes later would stay unseen. Nothing is
# mounted on /driver-root/dev: a driver root without dev/ (GKE), mounted read-only, has no place for it.
- name: dev
  mountPath: /dev
  readOnly: {{ not .Values.partition.enabled }} # partitioning makes the nodes of new MIG devices
  {{- with include "mig-device-plugin.propagation" (list . $devRoot) }}
  {{ . }}
  {{- end }}
{{- end }}
{{- if $byCdi }}
# The directory: a specification is written beside the old one and renamed.
- name: cdi
  mountPath: {{ clean .Values.cdi.directory | quote }}
{{- end }}
{{- end -}}

{{- define "mig-device-plugin.driverRootMount" }}
- name: driver-root
  mountPath: /driver-root
  readOnly: true
  {{- with include "mig-device-plugin.propagation" (list . (clean .Values.driver.root)) }}
  {{ . }}
  {{- end }}
{{- end -}}

{{- define "mig-device-plugin.driverVolumes" -}}
{{- $byCdi := include "mig-device-plugin.byCdi" . -}}
{{- $runtime := eq .Values.driver.access "runtime" -}}
{{- $apart := ne (include "mig-device-plugin.devRoot" .) (clean .Values.driver.root) -}}
{{- if or (include "mig-device-plugin.opensHost" .) (and $runtime (or $apart (not $byCdi))) }}
- name: dev
  hostPath:
    path: {{ printf "%s/dev" (include "mig-device-plugin.devRoot" .) | clean | quote }}
    type: Directory
{{- end }}
{{- if $runtime }}
- name: proc-driver
  hostPath:
    path: /proc/driver
    type: Directory
{{- end }}
{{- if $byCdi }}
- name: cdi
  hostPath:
    path: {{ clean .Values.cdi.directory | quote }}
    # /var/run is empty after a reboot.
    type: DirectoryOrCreate
{{- end }}
{{- if or (include "mig-device-plugin.opensHost" .) (and $runtime $byCdi) }}
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
{{- if include "mig-device-plugin.opensHost" . }}
privileged: true
{{- else if eq .Values.driver.access "runtime" }}
privileged: false
{{- if include "mig-device-plugin.seesMig" . }}
# Kubernetes demands it together with SYS_ADMIN.
allowPrivilegeEscalation: true
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN{{ if .Values.partition.enabled }}, MKNOD{{ end }}]
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
