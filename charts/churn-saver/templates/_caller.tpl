{{/* A Job that calls the gateway with one of scripts/, which need Python and nothing else. */}}
{{- define "churn-saver.caller" -}}
{{- $root := .root -}}
{{- $port := (include "churn-saver.settings" $root | fromYaml).gateway.port -}}
{{- $labels := dict "root" $root "component" .component -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "churn-saver.fullname" $root }}-{{ .component }}
  labels: {{ include "churn-saver.labels" $labels | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-delete-policy: before-hook-creation  # its log can be read until then
spec:
  # Pods may still be starting: tried again for some minutes.
  backoffLimit: 6
  activeDeadlineSeconds: 900
  ttlSecondsAfterFinished: 86400  # Helm does not take hooks away with a release
  template:
    metadata:
      labels: {{ include "churn-saver.labels" $labels | nindent 8 }}
    spec:
      {{- include "churn-saver.podSecurity" $root | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: {{ .component }}
          image: {{ include "churn-saver.image" (dict "root" $root "of" "gateway") }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [python, -c]
          args:
            - |
              {{- $root.Files.Get .script | nindent 14 }}
          env:
            - {name: GATEWAY, value: "http://{{ include "churn-saver.fullname" $root }}-gateway:{{ $port }}"}
            {{- range $variable, $value := .env }}
            - {name: {{ $variable }}, value: {{ $value | quote }}}
            {{- end }}
          {{- include "churn-saver.jobResources" . | nindent 10 }}
          {{- include "churn-saver.containerSecurity" . | nindent 10 }}
{{- end -}}
