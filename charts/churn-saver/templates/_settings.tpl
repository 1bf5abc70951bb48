{{/* What the services read. The project's own files are under configs/, so a setting's default stands once. */}}

{{/* serve.yaml: the project's, then values, then what the chart alone can know. Secrets come by the environment, and
     are taken out here, so that a pod without them refuses to start instead of using the local ones. */}}
{{- define "churn-saver.settings" -}}
{{- $settings := mergeOverwrite (.Files.Get "configs/serve.yaml" | fromYaml) (deepCopy .Values.settings) -}}
{{- $settings = omit $settings "pseudonym_key" -}}
{{- $_ := unset $settings.redis "url" -}}
{{- $_ = set $settings "state_dir" "/var/lib/churn-saver" -}}
{{- $_ = set $settings "models" "/var/lib/churn-saver/models" -}}
{{- $_ = set $settings.registry "trusted_keys" "/etc/churn-saver-keys/trusted.pem" -}}
{{- $_ = unset $settings.registry "signing_key" -}}
{{- $_ = set $settings.events "embedded" (dig "events" "embedded" nil .Values.settings) -}}
{{- range $service := list "gateway" "decision" "generator" "shield" -}}
{{- $_ = set (index $settings $service) "host" "0.0.0.0" -}}
{{- if ne $service "gateway" -}}
{{- $port := (index $settings $service).port -}}
{{- /* A name without dots is the first that the resolver tries, whatever its search list. */ -}}
{{- $_ = set $settings.addresses $service (printf "%s-%s:%v" (include "churn-saver.fullname" $) $service $port) -}}
{{- end -}}
{{- end -}}
{{- $_ = set $settings.generator "engine" (ternary "vllm" "embedded" .Values.vllm.enabled) -}}
{{- $_ = set $settings.generator.vllm "url" (printf "http://%s-vllm:%v" (include "churn-saver.fullname" .) .Values.vllm.port) -}}
{{- $_ = set $settings.generator.vllm "adapters" "/adapters" -}}
{{- $settings | toYaml -}}
{{- end -}}

{{/* The ConfigMap of the services. */}}
{{- define "churn-saver.configData" -}}
serve.yaml: |
  {{- include "churn-saver.settings" . | nindent 2 }}
env.yaml: |
  {{- .Values.configs.env | default (.Files.Get "configs/env.yaml") | nindent 2 }}
messages.yaml: |
  {{- .Values.configs.messages | default (.Files.Get "configs/messages.yaml") | nindent 2 }}
{{- end -}}

{{/* Environment of a process: `of` is the component, `secrets` the keys of the Secret that it needs. Whoever does
     not need one gets a word in its place, for settings are read whole. */}}
{{- define "churn-saver.environment" -}}
- {name: CHURN_SAVER_CONFIGS, value: /etc/churn-saver}
{{- range $setting, $key := dict "CHURN_SAVER_PSEUDONYM_KEY" "pseudonymKey" "CHURN_SAVER_REDIS__URL" "redisUrl" }}
- name: {{ $setting }}
  {{- if has $key $.secrets }}
  valueFrom:
    secretKeyRef: {name: {{ include "churn-saver.secretName" $.root }}, key: {{ index $.root.Values.secrets.keys $key }}}
  {{- else }}
  value: {{ if eq $key "redisUrl" }}redis://not-for-this-process{{ else }}not-for-this-process{{ end }}
  {{- end }}
{{- end }}
- {name: HOME, value: /tmp}
- {name: PYTHONUNBUFFERED, value: "1"}
{{- end -}}
