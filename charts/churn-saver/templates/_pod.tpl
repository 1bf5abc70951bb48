{{/* What every pod of the chart has in common. */}}

{{- define "churn-saver.podSecurity" -}}
automountServiceAccountToken: false  # Workload Identity asks the metadata server
enableServiceLinks: false            # its variables would look like settings
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "churn-saver.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "churn-saver.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Resources of the short Jobs: they speak to one or two addresses and end. */}}
{{- define "churn-saver.jobResources" -}}
resources:
  requests: {cpu: 100m, memory: 128Mi, ephemeral-storage: 64Mi}
  limits: {memory: 512Mi, ephemeral-storage: 256Mi}
{{- end -}}

{{/* Files that whoever reads settings needs; the volume `config` is each pod's own. */}}
{{- define "churn-saver.settingsMounts" -}}
- {name: config, mountPath: /etc/churn-saver, readOnly: true}
- {name: keys, mountPath: /etc/churn-saver-keys, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "churn-saver.settingsVolumes" -}}
- name: keys
  secret:
    secretName: {{ include "churn-saver.secretName" . }}
    items: [{key: {{ .Values.secrets.keys.trustedKeys }}, path: trusted.pem}]
- name: tmp
  emptyDir: {sizeLimit: 128Mi}
{{- end -}}

{{/* Whether a service answers: gRPC's health protocol, by the kubelet since 1.24 and by a process before. */}}
{{- define "churn-saver.probeOfHealth" -}}
{{- if include "churn-saver.since" (dict "root" .root "least" "1.24") -}}
grpc: {port: {{ .port }}}
{{- else -}}
exec: {command: [python, -m, churnsaver.rpc.probe, "127.0.0.1:{{ .port }}"]}
{{- end -}}
{{- end -}}

{{- define "churn-saver.probes" -}}
{{- $alive := "httpGet: {path: /healthz, port: http}" -}}
{{- $ready := "httpGet: {path: /readyz, port: http}" -}}
{{- if ne .of "gateway" -}}
{{- $alive = include "churn-saver.probeOfHealth" . -}}
{{- $ready = $alive -}}
{{- end -}}
startupProbe:
  {{ $alive }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ div (add (index .root.Values .of).startupSeconds 1) 2 }}
readinessProbe:
  {{ $ready }}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
# Slow to anger: a busy process is not a dead one, and every restart fetches and tries checkpoints.
livenessProbe:
  {{ $alive }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* The pod of one of the four services: `of` is its name. */}}
{{- define "churn-saver.servicePod" -}}
{{- $values := index .root.Values .of -}}
{{- $settings := index (include "churn-saver.settings" .root | fromYaml) .of -}}
{{- $labels := dict "root" .root "component" .of -}}
{{- $holdsSecrets := list -}}
{{- if eq .of "gateway" }}{{ $holdsSecrets = list "pseudonymKey" "redisUrl" }}{{ end -}}
{{- if eq .of "generator" }}{{ $holdsSecrets = list "redisUrl" }}{{ end -}}
{{- $redisCa := and (has "redisUrl" $holdsSecrets) .root.Values.secrets.keys.redisCa -}}
{{- $adapters := and (eq .of "generator") .root.Values.vllm.enabled .root.Values.vllm.adapters.claim -}}
{{- $persistent := and (eq .of "gateway") .root.Values.gateway.persistence.enabled -}}
metadata:
  labels: {{ include "churn-saver.labels" $labels | nindent 4 }}
  annotations:
    # Settings are read once, so new ones need new pods.
    checksum/config: {{ include "churn-saver.configData" .root | sha256sum }}
    {{- with $values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  {{- include "churn-saver.podSecurity" .root | nindent 2 }}
  serviceAccountName: {{ include "churn-saver.serviceAccountName" . }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
      labelSelector: {matchLabels: {{ include "churn-saver.selector" $labels | fromYaml | toJson }}}
    {{- end }}
  {{- include "churn-saver.placement" $values | nindent 2 }}
  containers:
    - name: {{ .of }}
      image: {{ include "churn-saver.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [python, -m, services.{{ .of }}]
      env:
        {{- include "churn-saver.environment" (dict "root" .root "secrets" $holdsSecrets) | nindent 8 }}
        # One request at a time needs no thread pool of linear algebra.
        - {name: OMP_NUM_THREADS, value: "1"}
        - {name: TOKENIZERS_PARALLELISM, value: "false"}
        {{- if eq .of "gateway" }}
        - {name: FORCE_BASELINE, value: {{ .root.Values.forceBaseline | quote }}}
        {{- end }}
        {{- range $name, $value := $values.env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        - {name: {{ include "churn-saver.portName" .of }}, containerPort: {{ $settings.port }}, protocol: TCP}
        {{- if ne .of "gateway" }}
        - {name: metrics, containerPort: {{ $settings.metrics_port }}, protocol: TCP}
        {{- end }}
      {{- include "churn-saver.probes" (dict "root" .root "of" .of "port" $settings.port) | nindent 6 }}
      lifecycle:
        # Goes on serving until nobody sends any more; SIGTERM, and with it the drain, comes after.
        preStop: {exec: {command: [python, -c, "import time; time.sleep({{ $values.preStopSeconds }})"]}}
      resources: {{ toYaml $values.resources | nindent 8 }}
      {{- include "churn-saver.containerSecurity" . | nindent 6 }}
      volumeMounts:
        {{- include "churn-saver.settingsMounts" . | nindent 8 }}
        - {name: state, mountPath: /var/lib/churn-saver}
        {{- if $redisCa }}
        - {name: redis-ca, mountPath: /etc/churn-saver-redis, readOnly: true}
        {{- end }}
        {{- if $adapters }}
        - {name: adapters, mountPath: /adapters}
        {{- end }}
  volumes:
    {{- with $adapters }}
    - name: adapters
      persistentVolumeClaim: {claimName: {{ . }}}
    {{- end }}
    - name: config
      configMap: {name: {{ include "churn-saver.fullname" .root }}-config}
    {{- include "churn-saver.settingsVolumes" .root | nindent 4 }}
    {{- if not $persistent }}
    - name: state
      emptyDir: {sizeLimit: {{ $values.stateSize }}}
    {{- end }}
    {{- if $redisCa }}
    - name: redis-ca
      secret:
        secretName: {{ include "churn-saver.secretName" .root }}
        items: [{key: {{ .root.Values.secrets.keys.redisCa }}, path: ca.pem}]
    {{- end }}
{{- end -}}
