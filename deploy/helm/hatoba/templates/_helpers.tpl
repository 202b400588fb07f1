{{- define "hatoba.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "hatoba.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hatoba.labels" -}}
{{ include "hatoba.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "hatoba.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "hatoba.scheme" -}}
{{ if .Values.tls.existingSecret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- define "hatoba.auth" -}}
{{- $ways := 0 }}
{{- if .Values.auth.existingSecret }}{{ $ways = add1 $ways }}{{ end }}
{{- if .Values.auth.htpasswd }}{{ $ways = add1 $ways }}{{ end }}
{{- if .Values.auth.anonymous }}{{ $ways = add1 $ways }}{{ end }}
{{- if ne (int $ways) 1 }}
{{- fail "set one of auth.existingSecret (a Secret with an htpasswd file), auth.htpasswd (its lines) and auth.anonymous=true" }}
{{- end }}
{{- if not .Values.auth.anonymous }}{{ .Values.auth.existingSecret | default (printf "%s-htpasswd" (include "hatoba.name" .)) }}{{ end }}
{{- end }}

{{- define "hatoba.config" -}}
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: {{ .Values.deleteEnabled }}
auth:
{{- if .Values.auth.anonymous }}
  none: {}
{{- else }}
  htpasswd:
    realm: Registry
    path: /auth/{{ .Values.auth.key }}
{{- end }}
http:
  addr: :5000
  draintimeout: {{ .Values.drainSeconds }}s
{{- if .Values.tls.existingSecret }}
  tls:
    certificate: /tls/tls.crt
    key: /tls/tls.key
{{- end }}
{{- if .Values.metrics.enabled }}
  debug:
    addr: :{{ .Values.metrics.port }}
    prometheus:
      enabled: true
{{- end }}
hatoba:
  workers: {{ int64 .Values.workers }}
{{- end }}
