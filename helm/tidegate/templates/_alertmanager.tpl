{{/*
Alertmanager's own configuration in the operator's spelling, so that routes and words stand once, in monitoring/.
A file that holds a secret becomes the key of that name in one Secret.
*/}}

{{/* api_url -> apiURL, title_link -> titleLink */}}
{{- define "tidegate.operatorName" -}}
{{- $name := . | camelcase | untitle -}}
{{- if ne $name "url" }}{{ $name = regexReplaceAll "Url$" $name "URL" }}{{ end -}}
{{- get (dict "sourceMatchers" "sourceMatch" "targetMatchers" "targetMatch") $name | default $name -}}
{{- end -}}

{{/* severity="critical" -> {name, matchType, value} */}}
{{- define "tidegate.operatorMatcher" -}}
{{- $parts := regexSplit "(=~|!~|!=|=)" . 2 -}}
name: {{ index $parts 0 | trim | quote }}
matchType: {{ regexFind "(=~|!~|!=|=)" . | quote }}
value: {{ index $parts 1 | trim | trimAll "\"" | quote }}
{{- end -}}

{{/* Give (dict "value" VALUE "secret" NAME "words" TEMPLATES); the same value respelt, as YAML of {value: ...}. */}}
{{- define "tidegate.operatorSpelling" -}}
{{- $context := omit . "value" -}}
{{- $value := .value -}}
{{- if kindIs "map" $value -}}
  {{- $out := dict -}}
  {{- range $key, $each := $value -}}
    {{- if hasSuffix "_file" $key -}}
      {{- $name := eq $key "url_file" | ternary "urlSecret" (trimSuffix "_file" $key | include "tidegate.operatorName") -}}
      {{- $_ := set $out $name (dict "name" $context.secret "key" (base $each)) -}}
    {{- else if hasSuffix "matchers" $key -}}
      {{- $matchers := list -}}
      {{- range $each }}{{ $matchers = append $matchers (include "tidegate.operatorMatcher" . | fromYaml) }}{{ end -}}
      {{- $_ := set $out (include "tidegate.operatorName" $key) $matchers -}}
    {{- else if eq $key "links" -}}
      {{- $links := list -}}
      {{- range $each }}{{ $links = append $links (dict "href" .href "alt" .text) }}{{ end -}}
      {{- $_ := set $out "pagerDutyLinkConfigs" (get (include "tidegate.operatorSpelling" (merge (dict "value" $links) $context) | fromYaml) "value") -}}
    {{- else if eq $key "details" -}}
      {{- $details := list -}}
      {{- range $name, $words := $each }}{{ $details = append $details (dict "key" $name "value" $words) }}{{ end -}}
      {{- $_ := set $out $key (get (include "tidegate.operatorSpelling" (merge (dict "value" $details) $context) | fromYaml) "value") -}}
    {{- else -}}
      {{- $_ := set $out (include "tidegate.operatorName" $key) (get (include "tidegate.operatorSpelling" (merge (dict "value" $each) $context) | fromYaml) "value") -}}
    {{- end -}}
  {{- end -}}
  {{- toYaml (dict "value" $out) -}}
{{- else if kindIs "slice" $value -}}
  {{- $out := list -}}
  {{- range $value }}{{ $out = append $out (get (include "tidegate.operatorSpelling" (merge (dict "value" .) $context) | fromYaml) "value") }}{{ end -}}
  {{- toYaml (dict "value" $out) -}}
{{- else if and (kindIs "string" $value) (contains "{{ template" $value) -}}
  {{- /* The operator's Alertmanager has no template files: the definitions travel with each text that uses them. */ -}}
  {{- toYaml (dict "value" (printf "%s%s" .words $value)) -}}
{{- else -}}
  {{- toYaml (dict "value" $value) -}}
{{- end -}}
{{- end -}}
