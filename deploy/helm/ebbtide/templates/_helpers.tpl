{{- /* First part of every name. It holds "ebbtide", which the alert EbbtideDown looks for in the name of a scrape job. */}}
{{- define "ebbtide.name" -}}
{{- $name := .Release.Name }}
{{- if contains "ebbtide" $name }}{{ $name }}{{ else }}{{ printf "%s-ebbtide" $name }}{{ end }}
{{- end }}

{{- /* Labels of every resource. */}}
{{- define "ebbtide.labels" -}}
app.kubernetes.io/part-of: ebbtide
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Labels by which the pods of one program are found; of a list: release, program. */}}
{{- define "ebbtide.selector" -}}
app.kubernetes.io/name: {{ last . }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
{{- end }}

{{- define "ebbtide.podLabels" -}}
{{ include "ebbtide.selector" . }}
app.kubernetes.io/part-of: ebbtide
{{- end }}

{{- define "ebbtide.image" -}}
image: {{ printf "%s:%s" .repository .tag | quote }}
{{- end }}

{{- define "ebbtide.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* User 1000 of both images. */}}
{{- define "ebbtide.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "ebbtide.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "ebbtide.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "ebbtide.selector" . | nindent 8 }}
{{- end }}

{{- define "ebbtide.claim" -}}
{{ .Values.repository.volume.existingClaim | default (printf "%s-repository" (include "ebbtide.name" .)) }}
{{- end }}

{{- /* Port of an address; of a list: address, port where it names none. */}}
{{- define "ebbtide.port" -}}
{{- $host := (urlParse (first .)).host }}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (last .) }}
{{- end }}

{{- define "ebbtide.collectorPort" -}}
{{- include "ebbtide.port" (list .Values.traces.collector (ternary "443" "80" (hasPrefix "https:" .Values.traces.collector))) }}
{{- end }}
