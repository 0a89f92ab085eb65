{{/*
The alerts as files/alerts.yaml has them, a list. UPPER_CASE words in them stand for values of the release.
*/}}
{{- define "mig-device-plugin.alerts" -}}
{{- .Files.Get "files/alerts.yaml"
  | replace "RELEASE_NAMESPACE" (include "mig-device-plugin.namespace" .)
  | replace "DAEMONSET_NAME" (include "mig-device-plugin.fullname" .)
  | replace "DRIVER_HANG_SECONDS" (.Values.prometheusRule.driverHangSeconds | int | toString)
  | replace "FAULT_STORM_COUNT" (.Values.prometheusRule.faultStorm.count | int | toString)
  | replace "FAULT_STORM_WINDOW" .Values.prometheusRule.faultStorm.window -}}
{{- end -}}
