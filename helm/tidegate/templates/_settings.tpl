{{/* What the control plane and the worker pods are told, as maps of environment variables. */}}

{{/* Plain environment of every worker pod, as YAML. */}}
{{- define "tidegate.podEnv" -}}
{{- $env := dict -}}
{{- with .Values.antenna.url }}{{ $_ := set $env "TIDEGATE_ANTENNA_URL" . }}{{ end -}}
{{- with .Values.manifests -}}
{{- if .enabled -}}
{{- with .outputUri }}{{ $_ := set $env "TIDEGATE_OUTPUT_URI" . }}{{ end -}}
{{- with .imageRoots }}{{ $_ := set $env "TIDEGATE_IMAGE_ROOTS" (join "," .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toYaml (mergeOverwrite $env (deepCopy .Values.worker.env)) -}}
{{- end -}}

{{/* Environment of every worker pod from Secrets, NAME: secret/key, as YAML. */}}
{{- define "tidegate.podSecrets" -}}
{{- $env := dict -}}
{{- if .Values.antenna.url }}{{ $_ := set $env "TIDEGATE_ANTENNA_TOKEN" (printf "%s/%s" .Values.antenna.tokenSecret.name .Values.antenna.tokenSecret.key) }}{{ end -}}
{{- if .Values.manifests.enabled }}{{ $_ := set $env "TIDEGATE_LEDGER_URL" (printf "%s/%s" .Values.manifests.ledgerSecret.name .Values.manifests.ledgerSecret.key) }}{{ end -}}
{{- toYaml (mergeOverwrite $env (deepCopy .Values.worker.secretEnv)) -}}
{{- end -}}

{{- define "tidegate.resize" -}}
{{- if eq (toString .Values.plan.resize) "auto" -}}
{{ semverCompare ">=1.33.0-0" .Capabilities.KubeVersion.Version }}
{{- else -}}
{{ .Values.plan.resize }}
{{- end -}}
{{- end -}}

{{/* Settings of the control plane, as YAML; absent ones keep the default that the code documents. */}}
{{- define "tidegate.settings" -}}
{{- $gib := 1073741824 -}}
{{- $settings := dict
  "TIDEGATE_NAMESPACE" .Values.jobs.namespace
  "TIDEGATE_SERVICE_ACCOUNT" .Values.jobs.serviceAccount
  "TIDEGATE_WORKER_IMAGE" (include "tidegate.image" (dict "root" $ "image" .Values.worker.image))
  "TIDEGATE_IMAGE_PULL_POLICY" .Values.worker.imagePullPolicy
  "TIDEGATE_CPU_REQUEST" .Values.worker.cpuRequest
  "TIDEGATE_GPUS" .Values.worker.gpus
  "TIDEGATE_GPU_RESOURCE" .Values.worker.gpuResource
  "TIDEGATE_UID" (int64 .Values.worker.uid)
  "TIDEGATE_PROMETHEUS_URL" .Values.prometheus.url
  "TIDEGATE_CAP_BYTES" (mul (int64 .Values.plan.capGib) $gib)
  "TIDEGATE_STAGING_BYTES" (mul (int64 .Values.plan.stagingGib) $gib)
  "TIDEGATE_LEASE_SECONDS" .Values.plan.leaseSeconds
  "TIDEGATE_GRACE_SECONDS" .Values.plan.graceSeconds
  "TIDEGATE_RESIZE" (include "tidegate.resize" .)
  "TIDEGATE_SCRAPE_SECONDS" .Values.plan.scrapeSeconds
  "TIDEGATE_NIGHTLY_SCHEDULE" .Values.nightly.schedule
  "TIDEGATE_NIGHTLY_TIMEZONE" .Values.nightly.timezone
  "TIDEGATE_NIGHTLY_RUNS" .Values.nightly.runs
  "TIDEGATE_SLACK_CHANNEL" .Values.notify.slackChannel
  "TIDEGATE_DOCS_URL" .Values.docsUrl
  "TIDEGATE_DASHBOARDS_URL" .Values.dashboards.url
  "TIDEGATE_PRIORITY_CLASS" .Values.worker.priorityClass
  "TIDEGATE_STAGING_CLAIM" (include "tidegate.claim" (dict "root" $ "volume" "staging"))
  "TIDEGATE_RESULTS_CLAIM" (include "tidegate.claim" (dict "root" $ "volume" "results"))
  "TIDEGATE_WEIGHTS_CLAIM" (include "tidegate.claim" (dict "root" $ "volume" "weights"))
  "TIDEGATE_PROMETHEUS_USER" .Values.prometheus.user
  "TIDEGATE_PROMETHEUS_PASSWORD_FILE" .Values.prometheus.passwordFile
  "TIDEGATE_PROMETHEUS_TOKEN_FILE" .Values.prometheus.tokenFile
  "TIDEGATE_PROMETHEUS_CA_FILE" .Values.prometheus.caFile
  "TIDEGATE_SLACK_CONN_ID" .Values.notify.slackConnId
  "TIDEGATE_PAGERDUTY_CONN_ID" .Values.notify.pagerdutyConnId
  "TIDEGATE_OPSGENIE_CONN_ID" .Values.notify.opsgenieConnId
-}}
{{- with .Values.antenna.url -}}
{{- $_ := set $settings "TIDEGATE_ANTENNA_URL" . -}}
{{- $_ := set $settings "TIDEGATE_ANTENNA_TOKEN_FILE" $.Values.antenna.tokenFile -}}
{{- end -}}
{{- with .Values.worker.imagePullSecrets }}{{ $_ := set $settings "TIDEGATE_IMAGE_PULL_SECRETS" (toJson .) }}{{ end -}}
{{- with .Values.worker.pipelineEnv }}{{ $_ := set $settings "TIDEGATE_PIPELINE_ENV" (toJson .) }}{{ end -}}
{{- with .Values.plan.pipelines }}{{ $_ := set $settings "TIDEGATE_PIPELINES" (toJson .) }}{{ end -}}
{{- with .Values.nightly.manifests }}{{ $_ := set $settings "TIDEGATE_NIGHTLY_MANIFESTS" (toJson .) }}{{ end -}}
{{- with include "tidegate.podEnv" . | fromYaml }}{{ $_ := set $settings "TIDEGATE_POD_ENV" (toJson .) }}{{ end -}}
{{- with include "tidegate.podSecrets" . | fromYaml }}{{ $_ := set $settings "TIDEGATE_POD_SECRETS" (toJson .) }}{{ end -}}
{{- range $name, $value := mergeOverwrite $settings (deepCopy .Values.settings) -}}
{{- if ne (toString $value) "" }}
{{ $name }}: {{ (kindIs "float64" $value | ternary (printf "%v" $value) (toString $value)) | quote }}
{{- end -}}
{{- end -}}
{{- end -}}
