{{/* Names, labels and the few places where clusters differ. */}}

{{- define "churn-saver.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 32 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 32 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 32 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects pods: of the release, and of one component where one is given. */}}
{{- define "churn-saver.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "churn-saver.labels" -}}
{{ include "churn-saver.selector" . }}
app.kubernetes.io/part-of: churn-saver
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "churn-saver.image" -}}
{{- $image := (index .root.Values .of).image -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository }}{{ with $image.digest }}@{{ . }}{{ else }}:{{ .root.Values.image.tag }}{{ end -}}
{{- end -}}

{{- define "churn-saver.serviceAccountName" -}}
{{- (index .root.Values .of).serviceAccount.name | default (printf "%s-%s" (include "churn-saver.fullname" .root) .of) -}}
{{- end -}}

{{- define "churn-saver.secretName" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-secrets" (include "churn-saver.fullname" .)) -}}
{{- end -}}

{{/* "true" where the cluster is at least of version `least`. */}}
{{- define "churn-saver.since" -}}
{{- $version := .root.Values.kubeVersion | default .root.Capabilities.KubeVersion.Version -}}
{{- if semverCompare (printf ">=%s-0" .least) $version }}true{{ end -}}
{{- end -}}

{{/* A service's port of gRPC, or the gateway's of HTTP; and what Prometheus finds its metrics under. */}}
{{- define "churn-saver.portName" -}}{{ if eq . "gateway" }}http{{ else }}grpc{{ end }}{{- end -}}
{{- define "churn-saver.metricsPortName" -}}{{ if has . (list "gateway" "vllm") }}http{{ else }}metrics{{ end }}{{- end -}}

{{/* Who calls whom, in YAML: the arrows of the README. Network policies follow it on both ends. */}}
{{- define "churn-saver.arrows" -}}
gateway: [decision, generator, shield]
generator: [shield{{ if .Values.vllm.enabled }}, vllm{{ end }}]
preflight: [decision, generator, shield]
kill-switch: [gateway]
test: [gateway]
{{- end -}}

{{/* Seconds that a service goes on answering after SIGTERM. The gateway's are a constant of its bootstrap.py. */}}
{{- define "churn-saver.drainSeconds" -}}
{{- if eq .of "gateway" }}10{{ else }}{{ (index (include "churn-saver.settings" .root | fromYaml) .of).drain_s }}{{ end -}}
{{- end -}}
