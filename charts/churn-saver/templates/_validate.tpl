{{/* What values.schema.json cannot say: what is missing here, and what contradicts itself. Every fault is one line
     with the field and the mend, and all are shown at once, before anything is changed. */}}
{{- define "churn-saver.validate" -}}
{{- $found := "" -}}
{{- range list "names" "services" "resources" "accounts" "vllm" "settings" "secrets" "exposure" "networkPolicy" "trainers" }}{{ $found = print $found (include (printf "churn-saver.faults.%s" .) $) }}{{ end -}}
{{- with trim $found }}{{ fail (print "these values cannot be installed:\n" .) }}{{ end -}}
{{- end -}}

{{- define "churn-saver.faults.names" -}}
{{- $name := include "churn-saver.fullname" . }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) }}
- fullnameOverride: objects would be called {{ $name }}-…, which Services cannot be; set one that begins with a letter and has lower-case letters, digits and hyphens alone
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.services" -}}
{{- $images := list "gateway" "decision" "generator" "shield" -}}
{{- if .Values.trainers.enabled }}{{ $images = append $images "trainers" }}{{ end -}}
{{- $untagged := list -}}
{{- range $images }}{{ if not (or $.Values.image.tag (index $.Values .).image.digest) }}{{ $untagged = append $untagged . }}{{ end }}{{ end -}}
{{- with $untagged }}
- image.tag: is empty, and there is no image.digest of {{ join ", " . }}; set the tag that the pipeline built, never `latest`
{{- end }}
{{- range $service := list "gateway" "decision" "generator" "shield" }}
{{- $values := index $.Values $service }}
{{- $scale := $values.autoscaling }}
{{- if $scale.enabled }}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) }}
- {{ $service }}.autoscaling.minReplicas: {{ $scale.minReplicas }} is more than maxReplicas, {{ $scale.maxReplicas }}; raise maxReplicas or lower minReplicas
{{- end }}
{{- if not (or $scale.targetCPUUtilizationPercentage $scale.metrics (dig "queueDepth" "target" nil $scale)) }}
- {{ $service }}.autoscaling: has nothing to scale on; set targetCPUUtilizationPercentage or metrics
{{- end }}
{{- $demand := list }}
{{- range $scale.metrics }}{{ if has .type (list "External" "Object") }}{{ $demand = append $demand .type }}{{ end }}{{ end }}
{{- if and (eq (int $scale.minReplicas) 0) (not $demand) }}
- {{ $service }}.autoscaling.minReplicas: 0 needs a metric that is there without pods; add an External or Object one to metrics, or set 1
{{- end }}
{{- end }}
{{- range $variable, $_ := $values.env }}
{{- if has $variable (list "CHURN_SAVER_PSEUDONYM_KEY" "CHURN_SAVER_REDIS__URL") }}
- {{ $service }}.env.{{ $variable }}: would stand in the pod for all to read; keep it in the Secret (secrets.keys)
{{- end }}
{{- end }}
{{- $drain := include "churn-saver.drainSeconds" (dict "root" $ "of" $service) | float64 }}
{{- $needed := addf (float64 $values.preStopSeconds) $drain }}
{{- if le (float64 $values.terminationGracePeriodSeconds) $needed }}
- {{ $service }}.terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }} is not longer than preStopSeconds ({{ $values.preStopSeconds }}) and drain ({{ $drain }}) together; set more than {{ $needed }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.resources" -}}
{{- $components := list "gateway" "decision" "generator" "shield" }}
{{- range list "trainers" "vllm" }}{{ if (index $.Values .).enabled }}{{ $components = append $components . }}{{ end }}{{ end }}
{{- range $component := $components }}
{{- with (index $.Values $component).resources }}
{{- range $resource, $limit := .limits }}
{{- $request := index $.Values $component "resources" "requests" $resource | default 0 }}
{{- if gt (include "churn-saver.amount" $request | float64) (include "churn-saver.amount" $limit | float64) }}
- {{ $component }}.resources.requests.{{ $resource }}: {{ $request }} is more than its limit, {{ $limit }}; lower it or raise the limit
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A quantity of Kubernetes, 512Mi for instance, as a number. */}}
{{- define "churn-saver.amount" -}}
{{- $units := dict "" 1 "m" 0.001 "K" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- mulf (toString . | regexFind "^[0-9.]+") (get $units (toString . | regexFind "[KMGTim]*$")) }}
{{- end -}}

{{- define "churn-saver.faults.accounts" -}}
{{- $components := list "gateway" "decision" "generator" "shield" }}
{{- range list "trainers" "vllm" }}{{ if (index $.Values .).enabled }}{{ $components = append $components . }}{{ end }}{{ end }}
{{- $made := dict }}
{{- range $component := $components }}
{{- $account := (index $.Values $component).serviceAccount }}
{{- $name := include "churn-saver.serviceAccountName" (dict "root" $ "of" $component) }}
{{- if not (or $account.create $account.name) }}
- {{ $component }}.serviceAccount.name: is empty, and none is made; name the account that is there, or set create
{{- else if and $account.create (hasKey $made $name) }}
- {{ $component }}.serviceAccount.name: {{ $name }} is made for {{ get $made $name }} too; name another, or set create to false here
{{- end }}
{{- if $account.create }}{{ $_ := set $made $name $component }}{{ end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.vllm" -}}
{{- with .Values.vllm }}
{{- if .enabled }}
{{- if not (or .image.tag .image.digest) }}
- vllm.image.tag: is empty, and there is no digest; set the version of vLLM that you tried, never `latest`
{{- end }}
{{- if not .model }}
- vllm.model: is empty; name a model on a hub, or a folder of the image or the claim
{{- else if contains "://" .model }}
- vllm.model: {{ .model | quote }} is a URL, and vLLM then knows the model by a folder of its own, for which no adapter is found; name a model on a hub, or a folder of the image or the claim
{{- end }}
{{- if not (regexMatch "^.+@[0-9a-f]{12}$" .servedModelName) }}
- vllm.servedModelName: {{ .servedModelName | quote }} does not say which weights these are; set NAME@ and the first 12 digits of the sha256, both of the adapters' base.json
{{- end }}
{{- if not .adapters.claim }}
- vllm.adapters.claim: is empty, so adapters do not reach the server; name a PersistentVolumeClaim that is ReadWriteMany
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.settings" -}}
{{- $settings := include "churn-saver.settings" . | fromYaml }}
{{- $url := .Values.settings.registry.url }}
{{- if not (regexMatch "^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?$" $url) }}
- settings.registry.url: {{ $url | quote }} is no gs://bucket/path; set registry.url of Terraform's output helm_values
{{- end }}
{{- if and (not $settings.events.embedded) (not (regexMatch "^[a-z][a-z0-9-]{4,28}[a-z0-9]$" .Values.settings.events.project)) }}
- settings.events.project: {{ .Values.settings.events.project | quote }} is no Google Cloud project id (6 to 30 lower-case letters, digits and hyphens); set the project of the Pub/Sub topic
{{- end }}
{{- range $slice := list "decision_timeout_ms" "generator_timeout_ms" "shield_timeout_ms" "ledger_timeout_ms" }}
{{- if ge (int (index $settings.gateway $slice)) (int $settings.gateway.deadline_ms) }}
- settings.gateway.{{ $slice }}: {{ index $settings.gateway $slice }} leaves nothing of deadline_ms, {{ $settings.gateway.deadline_ms }}; lower it or raise the deadline
{{- end }}
{{- end }}
{{- if gt (addf $settings.gateway.experiment.baseline $settings.gateway.experiment.holdout) 1.0 }}
- settings.gateway.experiment: baseline and holdout are shares and add up to more than 1; lower one
{{- end }}
{{- range $file, $text := .Values.configs }}
{{- if and $text (hasKey (fromYaml $text) "Error") }}
- configs.{{ $file }}: is no YAML ({{ (fromYaml $text).Error }}); mend the file
{{- end }}
{{- end }}
{{- range $service := list "gateway" "decision" "generator" "shield" }}
{{- range $field := list "port" "metrics_port" }}
{{- $port := int (index $settings $service $field | default 1024) }}
{{- if lt $port 1024 }}
- settings.{{ $service }}.{{ $field }}: {{ $port }} is root's, and no pod here is; choose one from 1024 on
{{- end }}
{{- end }}
{{- end }}
{{- range $service := list "decision" "generator" "shield" }}
{{- with index $settings $service }}
{{- if eq (int .port) (int .metrics_port) }}
- settings.{{ $service }}.metrics_port: {{ .metrics_port }} is the port of gRPC too; choose another
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.secrets" -}}
{{- with .Values.secrets }}
{{- if and .existingSecret .externalSecret.enabled }}
- secrets: existingSecret and externalSecret.enabled are both set; choose one
{{- else if not (or .existingSecret .externalSecret.enabled) }}
- secrets: there are none; name a Secret in existingSecret, or enable externalSecret
{{- end }}
{{- with .existingSecret }}
{{- $keys := dict }}
{{- range $name, $key := $.Values.secrets.keys }}{{ if $key }}{{ $_ := set $keys (print "secrets.keys." $name) $key }}{{ end }}{{ end }}
{{- include "churn-saver.lacking" (dict "root" $ "field" "secrets.existingSecret" "secret" . "keys" $keys) }}
{{- end }}
{{- if .externalSecret.enabled }}
{{- if not .externalSecret.storeRef.name }}
- secrets.externalSecret.storeRef.name: is empty; name the (Cluster)SecretStore
{{- end }}
{{- range $name, $key := .keys }}
{{- if and $key (not (index $.Values.secrets.externalSecret.remoteKeys $name)) }}
- secrets.externalSecret.remoteKeys.{{ $name }}: is empty; name the secret in the store
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A Secret, or keys of one, that the cluster does not have: `field` names the Secret, `keys` holds field and key. It is
     asked only where it can be: `helm template` finds nothing, neither the ServiceAccount of every namespace nor, where
     the namespace is still to be made, the namespace of every cluster. */}}
{{- define "churn-saver.lacking" -}}
{{- $namespace := .root.Release.Namespace }}
{{- if or (lookup "v1" "ServiceAccount" $namespace "default") (lookup "v1" "Namespace" "" "kube-system") }}
{{- $secret := lookup "v1" "Secret" $namespace .secret }}
{{- if not $secret }}
- {{ .field }}: there is no Secret {{ .secret }} in the namespace {{ $namespace }}; make it: kubectl -n {{ $namespace }} create secret generic {{ .secret }}{{ range .keys }} --from-file={{ . }}=…{{ end }}
{{- else }}
{{- range $field, $key := .keys }}
{{- if not (hasKey ($secret.data | default dict) $key) }}
- {{ $field }}: the Secret {{ $.secret }} in the namespace {{ $namespace }} has no key {{ $key }} (it has: {{ keys ($secret.data | default dict) | sortAlpha | join ", " }}); add it, or name the key that holds it
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.exposure" -}}
{{- $exposure := .Values.exposure }}
{{- if ne $exposure.kind "none" }}
{{- if and (ne $exposure.kind "backend") (not $exposure.host) }}
- exposure.host: is empty; name the host that callers use
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.loadBalancerCidrs) }}
- networkPolicy.loadBalancerCidrs: is empty, so no load balancer reaches the gateway; name its ranges (values.yaml says which)
{{- end }}
{{- end }}
{{- if eq $exposure.kind "gateway" }}
{{- $certificates := compact (list $exposure.gateway.certificate.map (join "," $exposure.gateway.certificate.names) $exposure.gateway.certificate.secretName) }}
{{- if and (not $exposure.gateway.existing.name) (ne (len $certificates) 1) }}
- exposure.gateway.certificate: {{ len $certificates }} of map, names and secretName are set; set exactly one
{{- end }}
{{- end }}
{{- if eq $exposure.kind "ingress" }}
{{- if eq $exposure.ingress.managedCertificate (not (empty $exposure.ingress.secretName)) }}
- exposure.ingress: set either managedCertificate or secretName
{{- end }}
{{- end }}
{{- if $exposure.canary.weight }}
{{- if ne $exposure.kind "gateway" }}
- exposure.canary.weight: only exposure.kind gateway shares requests out; set it, or weight 0
{{- end }}
{{- if not $exposure.canary.service }}
- exposure.canary.service: is empty; name the gateway's Service of the canary release
{{- end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.networkPolicy" -}}
{{- with .Values.networkPolicy }}
{{- if and .enabled (not .redis.peers) }}
- networkPolicy.redis.peers: is empty, so nothing reaches Redis; give [{ipBlock: {cidr: …/32}}] or a podSelector
{{- end }}
{{- $scrapers := list }}
{{- range .monitoring }}{{ if not (has (dig "namespaceSelector" "matchLabels" "kubernetes.io/metadata.name" "" .) (list "gke-gmp-system" "gmp-system")) }}{{ $scrapers = append $scrapers . }}{{ end }}{{ end }}
{{- if and .enabled $.Values.monitoring.serviceMonitor.enabled (not $scrapers) }}
- networkPolicy.monitoring: names Google's collectors alone, so a Prometheus of monitoring.serviceMonitor reaches no metrics; add its namespace
{{- end }}
{{- end }}
{{- end -}}

{{- define "churn-saver.faults.trainers" -}}
{{- with .Values.trainers }}
{{- if .enabled }}
{{- if not .signingKey.secretName }}
- trainers.signingKey.secretName: is empty; name the Secret with the key that publishes (`churn-saver keys`)
{{- else }}
{{- include "churn-saver.lacking" (dict "root" $ "field" "trainers.signingKey.secretName" "secret" .signingKey.secretName "keys" (dict "trainers.signingKey.key" .signingKey.key)) }}
{{- end }}
{{- range $job, $spec := .jobs }}
{{- if and (has "--publish" $spec.args | not) (not (hasPrefix "eval" (first $spec.args))) }}
- trainers.jobs.{{ $job }}.args: what it trains is thrown away with its pod; add --publish
{{- end }}
{{- range $word := $spec.args }}
{{- if and (hasPrefix "/data/" $word) (not $.Values.trainers.data.bucket) }}
- trainers.data.bucket: is empty, and {{ $job }} reads {{ $word }}; name the bucket
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
