{{/* The daemon's HTTP server: where it listens, its certificate, and the probes that ask it. */}}

{{- define "mig-device-plugin.httpAddress" -}}
{{- if .Values.http.enabled -}}
{{- printf "%s:%d" (ternary (printf "[%s]" .Values.http.address) .Values.http.address (contains ":" .Values.http.address)) (int .Values.http.port) -}}
{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.httpScheme" -}}
{{- ternary "https" "http" (not (empty .Values.http.tls.secretName)) -}}
{{- end -}}

{{/* Variables of the server; empty HTTP_ADDRESS switches it off. */}}
{{- define "mig-device-plugin.httpEnv" -}}
- name: HTTP_ADDRESS
  value: {{ include "mig-device-plugin.httpAddress" . | quote }}
{{- if and .Values.http.enabled .Values.http.tls.secretName }}
- name: HTTP_TLS_CERT
  value: /tls/tls.crt
- name: HTTP_TLS_KEY
  value: /tls/tls.key
{{- end }}
{{- end -}}

{{/* Kubelet does not verify the certificate. */}}
{{- define "mig-device-plugin.probes" -}}
{{- $root := . -}}
{{- range $probe, $path := dict "startupProbe" "/healthz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{ $probe }}:
  httpGet:
    path: {{ $path }}
    port: http
    scheme: {{ include "mig-device-plugin.httpScheme" $root | upper }}
  {{- with index $root.Values.http $probe }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
