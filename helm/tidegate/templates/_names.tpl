{{/* Names, namespaces and labels of the chart's objects. */}}

{{- define "tidegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "tidegate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tidegate.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.airflowNamespace" -}}
{{- default .Release.Namespace .Values.airflow.namespace -}}
{{- end -}}

{{/* Labels of every object; give (dict "root" $ "component" NAME). The operators set name and component on worker pods too. */}}
{{- define "tidegate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "tidegate.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* What finds the pods of a component. For workers it is `WORKER_LABELS` of the contract: Tidegate's own, whatever the release is called. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* An image by digest or tag; give (dict "root" $ "image" VALUE). */}}
{{- define "tidegate.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* The claim of a volume, or nothing; give (dict "root" $ "volume" NAME). */}}
{{- define "tidegate.claim" -}}
{{- with index .root.Values.volumes .volume -}}
{{- if .existingClaim -}}
{{ .existingClaim }}
{{- else if .create -}}
{{ include "tidegate.fullname" $.root }}-{{ $.volume }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where an object of the Prometheus operator is wanted; give (dict "root" $ "enabled" VALUE). */}}
{{- define "tidegate.operatorWants" -}}
{{- if eq (toString .enabled) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end -}}
{{- else if eq (toString .enabled) "true" -}}
true
{{- end -}}
{{- end -}}
