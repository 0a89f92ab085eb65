{{/* What belongs together and cannot be said in values.schema.json: every mistake at once, each with its fix. */}}
{{- define "mig-device-plugin.validate" -}}
{{- $v := .Values -}}
{{- $root := . -}}
{{- $mistakes := list -}}

{{- if not (has $v.driver.access (list "runtime" "host" "simulation")) -}}
{{- $mistakes = append $mistakes (printf "driver.access is %q: set it to runtime, host or simulation." $v.driver.access) -}}
{{- end -}}

{{- if and (eq $v.driver.access "runtime") (not $v.runtimeClassName) -}}
{{- $mistakes = append $mistakes "driver.access=runtime needs runtimeClassName: set it to the RuntimeClass of NVIDIA's runtime (usually nvidia; see `kubectl get runtimeclass`), or set driver.access=host where there is none." -}}
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
{{- end -}}

{{- range $key, $path := dict "driver.root" $v.driver.root "driver.devRoot" ($v.driver.devRoot | default "/") "kubelet.root" $v.kubelet.root -}}
{{- if or (not (hasPrefix "/" $path)) (has ".." (splitList "/" $path)) -}}
{{- $mistakes = append $mistakes (printf "%s is %q: set it to an absolute path on the host, beginning with / and without `..`" $key $path) -}}
{{- end -}}
{{- end -}}

{{- if and $v.config.inline $v.config.existingConfigMap -}}
{{- $mistakes = append $mistakes "config.inline and config.existingConfigMap are both set: keep one, they are two sources of the same file." -}}
{{- end -}}
{{- if and $v.config.inline (ne (get $v.config.inline "version" | toString) "v1") -}}
{{- $mistakes = append $mistakes "config.inline has no `version: v1`: add it, the daemon reads no other version." -}}
{{- end -}}
{{- range include "mig-device-plugin.optionTable" . | fromYamlArray -}}
{{- if and (not (kindIs "invalid" (index $v .value))) (include "mig-device-plugin.inInlineConfig" (list $root .file)) -}}
{{- $mistakes = append $mistakes (printf "%s and config.inline's %s are both set: keep one, the first would always win." .value .file) -}}
{{- end -}}
{{- $option := . -}}
{{- range $v.extraEnv -}}
{{- if eq .name $option.env -}}
{{- $mistakes = append $mistakes (printf "extraEnv sets %s: set the value %s instead." $option.env $option.value) -}}
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

{{- range $v.extraEnv -}}
{{- if eq .name "SIMULATE" -}}
{{- $mistakes = append $mistakes "extraEnv has SIMULATE: set driver.access=simulation and simulation.node instead, which also drops the privileges." -}}
{{- end -}}
{{- end -}}

{{- if and (eq $v.updateStrategy.type "OnDelete") $v.updateStrategy.rollingUpdate -}}
{{- $mistakes = append $mistakes "updateStrategy.rollingUpdate does not go with updateStrategy.type=OnDelete: set updateStrategy.rollingUpdate=null" -}}
{{- end -}}

{{- if $mistakes -}}
{{- fail (printf "\n\nThe values of this chart need a change:\n  - %s\n" (join "\n  - " $mistakes)) -}}
{{- end -}}
{{- end -}}
