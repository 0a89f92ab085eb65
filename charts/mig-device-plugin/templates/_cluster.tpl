{{/*
What the daemon does at the API server: which features are on, the rights they need, the token. Everything is empty while
none is on.
*/}}

{{/* Names of the features that are on, as a JSON list. */}}
{{- define "mig-device-plugin.clusterFeatures" -}}
{{- $on := list -}}
{{- if eq .Values.nodeLabels.mode "api" -}}{{- $on = append $on "labels" -}}{{- end -}}
{{- if .Values.nodeEvents -}}{{- $on = append $on "events" -}}{{- end -}}
{{- if .Values.nodeCondition -}}{{- $on = append $on "condition" -}}{{- end -}}
{{- if .Values.nodeTaint -}}{{- $on = append $on "taint" -}}{{- end -}}
{{- if .Values.startupTaint -}}{{- $on = append $on "startup" -}}{{- end -}}
{{- if include "mig-device-plugin.configLabel" . -}}{{- $on = append $on "config" -}}{{- end -}}
{{- if and .Values.partition.enabled .Values.partition.label -}}{{- $on = append $on "partition" -}}{{- end -}}
{{- if and .Values.partition.enabled (eq .Values.partition.inUse "evict") -}}{{- $on = append $on "evict" -}}{{- end -}}
{{- if .Values.nodeCleanUp -}}{{- $on = append $on "cleanup" -}}{{- end -}}
{{- toJson $on -}}
{{- end -}}

{{/* Not empty: the daemon asks the API server. */}}
{{- define "mig-device-plugin.asksApi" -}}
{{- if include "mig-device-plugin.clusterFeatures" . | fromJsonArray -}}yes{{- end -}}
{{- end -}}

{{/* What each feature asks for, one line per rule, as in docs/cluster.md. */}}
{{- define "mig-device-plugin.rightsTable" -}}
- {for: [labels, events, condition, taint, startup, config, partition, cleanup], group: "", resource: nodes, verbs: [list, watch]}
- {for: [condition, taint, startup, cleanup], group: "", resource: nodes, verbs: [get]}
- {for: [labels, taint, startup, partition, cleanup], group: "", resource: nodes, verbs: [patch]}
- {for: [condition, cleanup], group: "", resource: nodes/status, verbs: [patch]}
- {for: [events, evict], group: "", resource: pods, verbs: [list]}
- {for: [evict], group: "", resource: pods/eviction, verbs: [create]}
- {for: [events], group: events.k8s.io, resource: events, verbs: [create, patch]}
{{- end -}}

{{/* Rules of the ClusterRole: one per resource. */}}
{{- define "mig-device-plugin.clusterRules" -}}
{{- $on := include "mig-device-plugin.clusterFeatures" . | fromJsonArray -}}
{{- $rules := list -}}
{{- $verbs := dict -}}
{{- range include "mig-device-plugin.rightsTable" . | fromYamlArray -}}
{{- $wanted := false -}}
{{- range .for -}}{{- if has . $on -}}{{- $wanted = true -}}{{- end -}}{{- end -}}
{{- if $wanted -}}
{{- if not (hasKey $verbs .resource) -}}{{- $rules = append $rules . -}}{{- end -}}
{{- $_ := set $verbs .resource (concat (get $verbs .resource | default list) .verbs | uniq | sortAlpha) -}}
{{- end -}}
{{- end -}}
{{- range $rules }}
- apiGroups: [{{ .group | quote }}]
  resources: [{{ .resource }}]
  verbs: [{{ get $verbs .resource | join ", " }}]
{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.clusterEnv" -}}
{{- if eq .Values.nodeLabels.mode "api" }}
- name: NODE_LABELS
  value: "true"
{{- else if eq .Values.nodeLabels.mode "nfd" }}
- name: FEATURES_FILE
  value: {{ printf "%s/mig-device-plugin" (include "mig-device-plugin.featuresFolder" .) | quote }}
{{- end }}
{{- if .Values.nodeEvents }}
- name: NODE_EVENTS
  value: "true"
{{- end }}
{{- with .Values.nodeCondition }}
- name: NODE_CONDITION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.nodeTaint }}
- name: NODE_TAINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.startupTaint }}
- name: STARTUP_TAINT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Folder of Node Feature Discovery that is mounted; empty: none is. */}}
{{- define "mig-device-plugin.featuresFolder" -}}
{{- if or .Values.nodeCleanUp (eq .Values.nodeLabels.mode "nfd") -}}{{- clean .Values.nodeLabels.featuresFolder -}}{{- end -}}
{{- end -}}

{{/* Keys of the taints that the daemon sets or removes, as a JSON list. */}}
{{- define "mig-device-plugin.taintKeys" -}}
{{- $keys := list -}}
{{- range list .Values.nodeTaint .Values.startupTaint -}}
{{- with . -}}{{- $keys = append $keys (regexReplaceAll "[=:].*$" . "") -}}{{- end -}}
{{- end -}}
{{- uniq $keys | toJson -}}
{{- end -}}

{{/* The pod tolerates the taints that its own daemon sets or removes: else nobody would remove them. */}}
{{- define "mig-device-plugin.tolerations" -}}
{{- $tolerations := .Values.tolerations | default list -}}
{{- range include "mig-device-plugin.taintKeys" . | fromJsonArray -}}
{{- $tolerations = append $tolerations (dict "key" . "operator" "Exists") -}}
{{- end -}}
{{- with uniq $tolerations -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/* The account's token as Kubernetes would mount it into every container. */}}
{{- define "mig-device-plugin.token" -}}
- name: token
  projected:
    {{- if .Values.http.rbacProxy.enabled }}
    # The proxy is not root.
    defaultMode: 0444
    {{- else }}
    defaultMode: 0400
    {{- end }}
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}

{{- define "mig-device-plugin.proxied" -}}
{{- if and .Values.http.enabled .Values.http.rbacProxy.enabled -}}yes{{- end -}}
{{- end -}}

{{/* Mistakes, as a JSON list. */}}
{{- define "mig-device-plugin.clusterMistakes" -}}
{{- $v := .Values -}}
{{- $root := . -}}
{{- $mistakes := list -}}
{{- $features := include "mig-device-plugin.clusterFeatures" . | fromJsonArray -}}
{{- $ours := dict "nodeLabels" "nodeLabels.mode=api" "featuresFile" "nodeLabels.mode=nfd" "nodeEvents" "nodeEvents" "nodeCondition" "nodeCondition" "nodeTaint" "nodeTaint" "startupTaint" "startupTaint" "partitionConfig" "partition.config" "partitionFile" "partition.inline or partition.existingConfigMap" "partitionInUse" "partition.inUse" "partitionMigMode" "partition.migMode" "partitionLabel" "partition.label" "configDir" "config.map or config.name" "configLabel" "config.label" "configDefault" "config.default" -}}
{{- range $key, $value := $ours -}}
{{- $env := snakecase $key | upper -}}
{{- $flag := printf "--%s" (kebabcase $key) -}}
{{- range $v.extraEnv -}}
{{- if eq .name $env -}}
{{- $mistakes = append $mistakes (printf "extraEnv sets %s: set %s instead, which brings the mounts and rights for it." $env $value) -}}
{{- end -}}
{{- end -}}
{{- range $v.extraArgs -}}
{{- if or (eq . $flag) (hasPrefix (printf "%s=" $flag) .) -}}
{{- $mistakes = append $mistakes (printf "extraArgs has %s: set %s instead, which brings the mounts and rights for it." . $value) -}}
{{- end -}}
{{- end -}}
{{- range include "mig-device-plugin.inConfigs" (list $root (printf "flags.plugin.%s" $key)) | fromJsonArray -}}
{{- $mistakes = append $mistakes (printf "%s sets flags.plugin.%s: set %s instead, which brings the mounts and rights for it." .name $key $value) -}}
{{- end -}}
{{- end -}}
{{- if and $v.nodeTaint (eq (regexReplaceAll "=[^:]*" $v.nodeTaint "") (regexReplaceAll "=[^:]*" ($v.startupTaint | default "") "")) -}}
{{- $mistakes = append $mistakes (printf "nodeTaint and startupTaint are the same taint (%s), which the daemon would both keep and remove: choose another key or effect for one of them." $v.nodeTaint) -}}
{{- end -}}
{{- if and $v.nodeCleanUp (or (not $v.ledger.hostPath) (eq $v.driver.access "simulation")) -}}
{{- $mistakes = append $mistakes "nodeCleanUp=true needs the record of what is on the Node, which is kept in ledger.hostPath and not in a simulation: set ledger.hostPath to the folder that it was, or set nodeCleanUp=false and clean up by hand (docs/cluster.md)." -}}
{{- end -}}
{{- if and $features (not $v.serviceAccount.create) (not $v.serviceAccount.name) -}}
{{- $mistakes = append $mistakes "serviceAccount.create=false without serviceAccount.name would give rights at the API server to every pod of the namespace: name an account of its own, or set serviceAccount.create=true." -}}
{{- end -}}
{{- if $v.admissionPolicy.enabled -}}
{{- if not $features -}}
{{- $mistakes = append $mistakes "admissionPolicy.enabled=true limits what the daemon writes to its Node, and it writes nothing yet: set nodeLabels.mode=api or another such feature, or admissionPolicy.enabled=false." -}}
{{- end -}}
{{- if semverCompare "<1.30-0" .Capabilities.KubeVersion.Version -}}
{{- $mistakes = append $mistakes (printf "admissionPolicy.enabled=true needs Kubernetes 1.30, this is %s: set admissionPolicy.enabled=false." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- toJson $mistakes -}}
{{- end -}}
