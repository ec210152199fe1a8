{{- define "diptych.name" -}}
{{- if contains "diptych" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-diptych" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "diptych.secret" -}}
{{ .Values.existingSecret | default (include "diptych.name" .) }}
{{- end }}

{{- define "diptych.store" -}}
{{ .Values.store.existingClaim | default (printf "%s-store" (include "diptych.name" .)) }}
{{- end }}

{{/* Labels that select the pods of one part: dict "root" $ "part" "gateway" */}}
{{- define "diptych.selector" -}}
app.kubernetes.io/name: diptych
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "diptych.labels" -}}
{{ include "diptych.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "diptych.image" -}}
image: {{ .root.Values.image.registry }}diptych-{{ .part }}:{{ .tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* What every pod has. Nothing here talks to Kubernetes. */}}
{{- define "diptych.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 30
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 10001 }}
  runAsGroup: {{ .user | default 10001 }}
  fsGroup: {{ .user | default 10001 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "diptych.selector" . | nindent 8 }}
{{- end }}

{{- define "diptych.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* dict "port" 8000. A new model takes a while to load, so that starting may take long. */}}
{{- define "diptych.probes" -}}
ports: [{name: http, containerPort: {{ .port }}}]
startupProbe: {httpGet: {path: /health/live, port: http}, periodSeconds: 2, failureThreshold: 90}
livenessProbe: {httpGet: {path: /health/live, port: http}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
readinessProbe: {httpGet: {path: /health/ready, port: http}, periodSeconds: 5, timeoutSeconds: 5, failureThreshold: 2}
# Who still has the old list of pods may ask this one for a moment longer.
lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
{{- end }}

{{- define "diptych.environment" -}}
- {name: DIPTYCH_LOG_LEVEL, value: {{ .Values.logLevel }}}
- {name: DIPTYCH_SECRETS_DIR, value: /run/secrets/diptych}
{{- with .Values.otlpEndpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* dict "root" $ "keys" (list ...): the secrets of one part as a volume */}}
{{- define "diptych.secrets" -}}
- name: secrets
  secret:
    secretName: {{ include "diptych.secret" .root }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}

{{- define "diptych.photos" -}}
{{- with .Values.photos.existingClaim -}}
- {name: photos, persistentVolumeClaim: {claimName: {{ . }}}}
{{- end }}
{{- end }}

{{- define "diptych.photosMount" -}}
{{- if .Values.photos.existingClaim -}}
- {name: photos, mountPath: /photos, readOnly: true}
{{- else -}}
- {name: store, mountPath: /photos, subPath: photos, readOnly: true}
{{- end }}
{{- end }}
