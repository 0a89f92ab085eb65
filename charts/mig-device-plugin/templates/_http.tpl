{{/* The daemon's HTTP server: where it listens, its certificate, and the probes that ask it. */}}

{{- define "mig-device-plugin.httpAddress" -}}
{{- if .Values.http.enabled -}}
{{- $address := ternary "127.0.0.1" .Values.http.address .Values.http.rbacProxy.enabled -}}
{{- printf "%s:%d" (ternary (printf "[%s]" $address) $address (contains ":" $address)) (int .Values.http.port) -}}
{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.httpScheme" -}}
{{- ternary "https" "http" (or .Values.http.rbacProxy.enabled (not (empty .Values.http.tls.secretName))) -}}
{{- end -}}

{{/* Port that answers from outside the pod: the proxy's, where there is one. */}}
{{- define "mig-device-plugin.httpPort" -}}
{{- ternary .Values.http.rbacProxy.port .Values.http.port .Values.http.rbacProxy.enabled | int -}}
{{- end -}}

{{/* Whether anything outside the pod is answered: not empty. */}}
{{- define "mig-device-plugin.httpReachable" -}}
{{- if and .Values.http.enabled (or .Values.http.rbacProxy.enabled (not (include "mig-device-plugin.onLoopback" .))) -}}yes{{- end -}}
{{- end -}}

{{- define "mig-device-plugin.onLoopback" -}}
{{- if or (hasPrefix "127." .Values.http.address) (eq .Values.http.address "::1") -}}yes{{- end -}}
{{- end -}}

{{/* Names of the probes that are on, as JSON. */}}
{{- define "mig-device-plugin.probeNames" -}}
{{- $root := . -}}
{{- $names := list -}}
{{- range list "startupProbe" "livenessProbe" "readinessProbe" -}}
{{- if (index $root.Values.http . | default dict).enabled -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* Variables of the server; empty HTTP_ADDRESS switches it off. */}}
{{- define "mig-device-plugin.httpEnv" -}}
- name: HTTP_ADDRESS
  value: {{ include "mig-device-plugin.httpAddress" . | quote }}
{{- if and .Values.http.enabled .Values.http.tls.secretName (not .Values.http.rbacProxy.enabled) }}
- name: HTTP_TLS_CERT
  value: /tls/tls.crt
- name: HTTP_TLS_KEY
  value: /tls/tls.key
{{- end }}
{{- with include "mig-device-plugin.httpHosts" . }}
- name: HTTP_HOSTS
  value: {{ . | quote }}
{{- end }}
{{- if and .Values.http.enabled .Values.http.token.secretName }}
- name: HTTP_TOKEN_FILE
  value: /token/token
{{- end }}
{{- end -}}

{{/* Names that belong to the server, by commas: the Service's, by which the proxy passes requests on too, and the user's. */}}
{{- define "mig-device-plugin.httpHosts" -}}
{{- $hosts := list -}}
{{- if .Values.http.enabled -}}
{{- if and .Values.service.enabled (include "mig-device-plugin.httpReachable" .) -}}
{{- $name := include "mig-device-plugin.fullname" . -}}
{{- $inNamespace := printf "%s.%s" $name (include "mig-device-plugin.namespace" .) -}}
{{- $hosts = list $name $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.cluster.local" $inNamespace) -}}
{{- end -}}
{{- $hosts = concat $hosts (.Values.http.hosts | default list) -}}
{{- end -}}
{{- uniq $hosts | join "," -}}
{{- end -}}

{{/* Kubelet does not verify the certificate. */}}
{{- define "mig-device-plugin.probes" -}}
{{- $root := . -}}
{{- range include "mig-device-plugin.probeNames" . | fromJsonArray }}
{{ . }}:
  httpGet:
    path: {{ ternary "/readyz" "/healthz" (eq . "readinessProbe") }}
    {{- /* A name would be looked for among this container's ports, and the proxy's is another container's. */}}
    port: {{ ternary (include "mig-device-plugin.httpPort" $root | int) "http" $root.Values.http.rbacProxy.enabled }}
    scheme: {{ include "mig-device-plugin.httpScheme" $root | upper }}
  {{- with omit (index $root.Values.http .) "enabled" }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* kube-rbac-proxy. */}}
{{- define "mig-device-plugin.rbacProxy" -}}
- name: kube-rbac-proxy
  image: {{ .Values.http.rbacProxy.image | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - {{ printf "--secure-listen-address=:%d" (int .Values.http.rbacProxy.port) | quote }}
    - {{ printf "--upstream=http://127.0.0.1:%d/" (int .Values.http.port) | quote }}
    # The probes' paths, which carry no secret and which kubelet asks without a token.
    - --ignore-paths=/healthz,/readyz
    {{- if .Values.http.tls.secretName }}
    - --tls-cert-file=/tls/tls.crt
    - --tls-private-key-file=/tls/tls.key
    {{- end }}
  ports:
    - name: http
      containerPort: {{ int .Values.http.rbacProxy.port }}
      protocol: TCP
  securityContext:
    runAsUser: 65532
    runAsGroup: 65532
    runAsNonRoot: true
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  resources:
    requests:
      cpu: 5m
      memory: 20Mi
    limits:
      memory: 64Mi
  volumeMounts:
    - name: token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
    {{- if .Values.http.tls.secretName }}
    - name: tls
      mountPath: /tls
      readOnly: true
    {{- end }}
{{- end -}}

{{/* Not empty: wanted, or known whom to let in. */}}
{{- define "mig-device-plugin.networkPolicyEnabled" -}}
{{- if kindIs "bool" .Values.networkPolicy.enabled -}}
{{- if .Values.networkPolicy.enabled -}}yes{{- end -}}
{{- else if or .Values.networkPolicy.namespaces .Values.networkPolicy.from -}}
yes
{{- end -}}
{{- end -}}
