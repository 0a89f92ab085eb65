{{/* What belongs together and cannot be said in values.schema.json: every mistake at once, each with its fix. */}}
{{- define "mig-device-plugin.validate" -}}
{{- $v := .Values -}}
{{- $root := . -}}
{{- $mistakes := include "mig-device-plugin.foreignMistakes" . | fromJsonArray -}}
{{- $mistakes = concat $mistakes (include "mig-device-plugin.clusterMistakes" . | fromJsonArray) -}}
{{- $mistakes = concat $mistakes (include "mig-device-plugin.partitionMistakes" . | fromJsonArray) -}}

{{- if eq (toString $v.enabled) "false" -}}
{{- $mistakes = append $mistakes "enabled=false reaches this chart, which cannot switch itself off: a parent chart does so with `condition: mig-device-plugin.enabled` of its dependency." -}}
{{- end -}}

{{- if not (has $v.driver.access (list "runtime" "host" "cdi" "simulation")) -}}
{{- $mistakes = append $mistakes (printf "driver.access is %q: set it to runtime, host, cdi or simulation." $v.driver.access) -}}
{{- end -}}

{{- if contains "nvidia/k8s-device-plugin" ($v.image.repository | default "") -}}
{{- $mistakes = append $mistakes "image.repository is that of NVIDIA's plugin: leave it out, or set it to where this plugin's image is." -}}
{{- end -}}

{{- if and (eq $v.driver.access "simulation") (not $v.simulation.node) -}}
{{- $mistakes = append $mistakes "driver.access=simulation needs simulation.node: set it to NODE[:GEOMETRY], for example --set simulation.node=p4d.24xlarge:all-1g.5gb" -}}
{{- end -}}
{{- if and (ne $v.driver.access "simulation") $v.simulation.node -}}
{{- $mistakes = append $mistakes (printf "simulation.node is set but driver.access is %s: set driver.access=simulation for a simulated node, or leave simulation.node empty for real GPUs." $v.driver.access) -}}
{{- end -}}
{{- if eq $v.driver.access "simulation" -}}
{{- if or $v.passDeviceSpecs (eq (include "mig-device-plugin.inInlineConfig" (list $root "flags.plugin.passDeviceSpecs")) "true") -}}
{{- $mistakes = append $mistakes "passDeviceSpecs=true cannot work with driver.access=simulation: the simulated device nodes are not on the node, so no pod could start with them. Leave passDeviceSpecs unset." -}}
{{- end -}}
{{- if include "mig-device-plugin.byCdi" . -}}
{{- $mistakes = append $mistakes "deviceListStrategy has a CDI strategy with driver.access=simulation: the node's container runtime finds no specification of simulated devices, so no pod could start with them. Leave deviceListStrategy unset." -}}
{{- end -}}
{{- end -}}
{{- if eq $v.driver.access "cdi" -}}
{{- $strategies := include "mig-device-plugin.inConfigs" (list $root "flags.plugin.deviceListStrategy") | fromJsonArray -}}
{{- with $v.deviceListStrategy -}}{{- $strategies = append $strategies (dict "name" "the value" "value" .) -}}{{- end -}}
{{- range $strategies -}}
{{- if not (contains "cdi-" (toJson .value)) -}}
{{- $mistakes = append $mistakes (printf "driver.access=cdi with a deviceListStrategy that has no CDI strategy (%s): set deviceListStrategy to cdi-cri or cdi-annotations, or leave it unset, or set driver.access=host." .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $key, $path := dict "driver.root" $v.driver.root "driver.devRoot" ($v.driver.devRoot | default "/") "kubelet.root" $v.kubelet.root "kubelet.devicePluginDir" ($v.kubelet.devicePluginDir | default "/") "kubelet.podResourcesDir" ($v.kubelet.podResourcesDir | default "/") "ledger.hostPath" ($v.ledger.hostPath | default "/") "cdi.directory" $v.cdi.directory "cdi.hookPath" ($v.cdi.hookPath | default "/") "nodeLabels.featuresFolder" $v.nodeLabels.featuresFolder -}}
{{- if or (not (hasPrefix "/" $path)) (has ".." (splitList "/" $path)) -}}
{{- $mistakes = append $mistakes (printf "%s is %q: set it to an absolute path on the host, beginning with / and without `..`" $key $path) -}}
{{- end -}}
{{- end -}}

{{- $sources := list -}}
{{- range list "inline" "existingConfigMap" "map" "name" -}}
{{- if index $v.config . -}}{{- $sources = append $sources (printf "config.%s" .) -}}{{- end -}}
{{- end -}}
{{- if gt (len $sources) 1 -}}
{{- $mistakes = append $mistakes (printf "%s are %s set: keep one, each is the whole configuration." (join " and " $sources) (ternary "both" "all" (eq (len $sources) 2))) -}}
{{- end -}}
{{- if $v.config.default -}}
{{- if not (include "mig-device-plugin.severalConfigs" .) -}}
{{- $mistakes = append $mistakes "config.default names one of several configurations, and there are none: set config.map or config.name, or leave config.default empty." -}}
{{- else if and $v.config.map (not (hasKey $v.config.map $v.config.default)) -}}
{{- $mistakes = append $mistakes (printf "config.default is %q, which is not in config.map: choose %s." $v.config.default (keys $v.config.map | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len ($v.config.map | default dict)) 1) (not $v.config.default) (not (hasKey $v.config.map "default")) (not (include "mig-device-plugin.configLabel" .)) -}}
{{- $mistakes = append $mistakes (printf "config.map has several configurations and nothing says which a node takes: set config.default to one of %s, or config.label." (keys $v.config.map | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if ne (get ($v.config.inline | default dict) "version" | default "v1" | toString) "v1" -}}
{{- $mistakes = append $mistakes (printf "config.inline has `version: %v`: write v1, the daemon reads no other version." (get $v.config.inline "version")) -}}
{{- end -}}
{{- range include "mig-device-plugin.optionTable" . | fromYamlArray -}}
{{- if and (include "mig-device-plugin.setValue" (list $root .value)) (include "mig-device-plugin.inInlineConfig" (list $root .file)) -}}
{{- $mistakes = append $mistakes (printf "%s and config.inline's %s are both set: keep one, the first would always win." .value .file) -}}
{{- end -}}
{{- end -}}

{{- if ne $v.driver.access "simulation" -}}
{{- range $decided := include "mig-device-plugin.decidedTable" . | fromYamlArray -}}
{{- range include "mig-device-plugin.inConfigs" (list $root .file) | fromJsonArray -}}
{{- if not (has (clean (toString .value)) (list (clean $decided.is) ".")) -}}
{{- $mistakes = append $mistakes (printf "%s sets %s to %v: %s, this chart always sets it to %s, which its mounts follow." .name $decided.file .value $decided.fix $decided.is) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and (eq (include "mig-device-plugin.strategy" .) "none" "mixed") $v.singleResource -}}
{{- $mistakes = append $mistakes (printf "singleResource is for migStrategy=single, which is %s here: set migStrategy=single, or leave singleResource unset." (include "mig-device-plugin.strategy" .)) -}}
{{- end -}}

{{- range $v.extraArgs -}}
{{- if hasPrefix "--simulate" . -}}
{{- $mistakes = append $mistakes "extraArgs has --simulate: set driver.access=simulation and simulation.node instead, which also drops the privileges." -}}
{{- end -}}
{{- end -}}

{{- $names := list -}}
{{- range $v.extraEnv -}}
{{- if eq .name "SIMULATE" -}}
{{- $mistakes = append $mistakes "extraEnv has SIMULATE: set driver.access=simulation and simulation.node instead, which also drops the privileges." -}}
{{- end -}}
{{- if has .name $names -}}
{{- $mistakes = append $mistakes (printf "extraEnv has %s twice: keep one." .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}

{{- $probes := include "mig-device-plugin.probeNames" . | fromJsonArray -}}
{{- range $env, $value := dict "HTTP_ADDRESS" "http.address and http.port" "HTTP_TLS_CERT" "http.tls.secretName" "HTTP_TLS_KEY" "http.tls.secretName" -}}
{{- range $v.extraEnv -}}
{{- if and (eq .name $env) $v.http.enabled $probes -}}
{{- $mistakes = append $mistakes (printf "extraEnv sets %s: set %s instead, which the ports and probes follow, or switch off %s." $env $value (join ", " $probes)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $v.extraArgs -}}
{{- if hasPrefix "--http-" . -}}
{{- $mistakes = append $mistakes (printf "extraArgs has %s: set the values below http instead, which the ports and probes follow." .) -}}
{{- end -}}
{{- end -}}
{{- range list "httpAddress" "httpHosts" "httpTLSCert" "httpTLSKey" "httpTokenFile" -}}
{{- $key := . -}}
{{- range include "mig-device-plugin.inConfigs" (list $root (printf "flags.plugin.%s" $key)) | fromJsonArray -}}
{{- $mistakes = append $mistakes (printf "%s sets flags.plugin.%s: set the values below http instead, which always win and which the ports and probes follow." .name $key) -}}
{{- end -}}
{{- end -}}
{{- if and (include "mig-device-plugin.onLoopback" .) $v.http.enabled (not $v.http.rbacProxy.enabled) -}}
{{- if $probes -}}
{{- $mistakes = append $mistakes (printf "http.address is %q, which neither kubelet's probes nor Prometheus can reach: leave it empty, or set http.enabled=false to serve nothing, or http.rbacProxy.enabled=true, or switch off %s." $v.http.address (join ", " $probes)) -}}
{{- end -}}
{{- if $v.podMonitor.enabled -}}
{{- $mistakes = append $mistakes (printf "podMonitor.enabled=true with http.address=%s, which Prometheus cannot reach: set http.rbacProxy.enabled=true, or podMonitor.enabled=false." $v.http.address) -}}
{{- end -}}
{{- end -}}
{{- if $v.http.rbacProxy.enabled -}}
{{- if not $v.http.enabled -}}
{{- $mistakes = append $mistakes "http.rbacProxy.enabled=true with http.enabled=false: set http.enabled=true, or http.rbacProxy.enabled=false." -}}
{{- end -}}
{{- if $v.http.token.secretName -}}
{{- $mistakes = append $mistakes "http.token.secretName with http.rbacProxy.enabled=true: keep one, the proxy already decides who may read." -}}
{{- end -}}
{{- if eq (int $v.http.rbacProxy.port) (int $v.http.port) -}}
{{- $mistakes = append $mistakes (printf "http.rbacProxy.port and http.port are both %d in one pod: change one." (int $v.http.port)) -}}
{{- end -}}
{{- if and $v.http.address (not (include "mig-device-plugin.onLoopback" .)) -}}
{{- $mistakes = append $mistakes (printf "http.address is %q, behind http.rbacProxy it would be a way round it: leave http.address empty." $v.http.address) -}}
{{- end -}}
{{- if and $v.podMonitor.enabled (not $v.podMonitor.authorization) -}}
{{- $mistakes = append $mistakes "podMonitor with http.rbacProxy needs podMonitor.authorization: set it to {credentials: {name: SECRET, key: token}}, with the token of an account that may read." -}}
{{- end -}}
{{- end -}}
{{- if not $v.http.enabled -}}
{{- range list "podMonitor" "prometheusRule" "dashboard" -}}
{{- if (index $v .).enabled -}}
{{- $mistakes = append $mistakes (printf "%s.enabled=true with http.enabled=false: there are no metrics; set http.enabled=true, or %s.enabled=false." . .) -}}
{{- end -}}
{{- end -}}
{{- range list "tls" "token" -}}
{{- if (index $v.http .).secretName -}}
{{- $mistakes = append $mistakes (printf "http.%s.secretName is set with http.enabled=false: set http.enabled=true, or leave http.%s.secretName empty." . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.podMonitor.enabled $v.http.enabled (or $v.http.tls.secretName $v.http.rbacProxy.enabled) (not $v.podMonitor.tlsConfig) -}}
{{- $mistakes = append $mistakes "podMonitor with http.tls.secretName or http.rbacProxy needs podMonitor.tlsConfig, since a certificate seldom names a pod's address: set it to {serverName: NAME, ca: {secret: {name: SECRET, key: ca.crt}}}, or to {insecureSkipVerify: true}." -}}
{{- end -}}
{{- if and $v.podMonitor.tlsConfig (not $v.http.tls.secretName) (not $v.http.rbacProxy.enabled) -}}
{{- $mistakes = append $mistakes "podMonitor.tlsConfig is set but http.tls.secretName is not, so plain HTTP is served: set http.tls.secretName, or leave podMonitor.tlsConfig empty." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.http.enabled (not $v.networkPolicy.namespaces) (not $v.networkPolicy.from) -}}
{{- $mistakes = append $mistakes "networkPolicy.enabled=true lets nobody in yet: set networkPolicy.namespaces to where Prometheus runs, for example --set networkPolicy.namespaces={monitoring}" -}}
{{- end -}}
{{- if $v.prometheusRule.alerts -}}
{{- $known := list -}}
{{- range include "mig-device-plugin.alerts" . | fromYamlArray -}}{{- $known = append $known .alert -}}{{- end -}}
{{- range $alert, $_ := $v.prometheusRule.alerts -}}
{{- if not (has $alert $known) -}}
{{- $mistakes = append $mistakes (printf "prometheusRule.alerts has %s, which is no alert of this chart: choose %s." $alert (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and (eq $v.updateStrategy.type "OnDelete") $v.updateStrategy.rollingUpdate -}}
{{- $mistakes = append $mistakes "updateStrategy.rollingUpdate does not go with updateStrategy.type=OnDelete: set updateStrategy.rollingUpdate=null" -}}
{{- end -}}

{{- if $mistakes -}}
{{- fail (printf "\n\nThe values of this chart need a change:\n  - %s\n" (join "\n  - " $mistakes)) -}}
{{- end -}}
{{- end -}}
