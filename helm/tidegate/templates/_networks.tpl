{{/*
One peer of a NetworkPolicy for a CIDR, with link-local left out of it. An exception must lie inside its network, so it
is written where the network holds it; a network that is link-local itself is refused.
*/}}
{{- define "tidegate.ipBlock" -}}
{{- $parts := splitList "/" . -}}
{{- $prefix := index $parts 1 | int -}}
{{- $address := index $parts 0 | lower -}}
{{- $except := list -}}
{{- if contains ":" $address -}}
{{- if eq $prefix 0 -}}
{{- /* fd00:ec2::254 is where one cloud keeps its credentials besides. */ -}}
{{- $except = list "fe80::/10" "fd00:ec2::254/128" -}}
{{- else if or (lt $prefix 10) (regexMatch "^fe[89ab]" $address) -}}
{{- fail (printf "networkPolicy: %s holds link-local addresses, which no worker may reach: write ::/0 or a narrower network" .) -}}
{{- end -}}
{{- else -}}
{{- $octets := splitList "." $address -}}
{{- $high := add (mul 256 (index $octets 0 | int)) (index $octets 1 | int) -}}
{{- /* 169.254 as 16 bits is 43518; networks of up to 16 bits hold it where their leading bits are its own. */ -}}
{{- $span := 1 -}}
{{- range until (max 0 (sub 16 $prefix) | int) }}{{ $span = mul $span 2 }}{{ end -}}
{{- if eq (div $high $span) (div 43518 $span) -}}
{{- if ge $prefix 16 -}}
{{- fail (printf "networkPolicy: %s is link-local, which no worker may reach" .) -}}
{{- end -}}
{{- $except = list "169.254.0.0/16" -}}
{{- end -}}
{{- end -}}
ipBlock:
  cidr: {{ . | quote }}
  {{- with $except }}
  except: {{ toJson . }}
  {{- end }}
{{- end -}}

{{/*
Peers for a list of CIDRs. Some networks (Cilium) count no pod as part of any CIDR, so everywhere is said of pods too.
*/}}
{{- define "tidegate.peers" -}}
{{- range . }}
- {{- include "tidegate.ipBlock" . | nindent 2 }}
{{- end }}
{{- if has "0.0.0.0/0" . }}
- namespaceSelector: {}
{{- end }}
{{- end -}}

{{/* Who may scrape: the pods of the Prometheus that the values name. */}}
{{- define "tidegate.prometheusPeer" -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .Values.prometheus.namespace }}
{{- with .Values.prometheus.podLabels }}
podSelector:
  matchLabels:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Egress to the cluster's DNS. */}}
{{- define "tidegate.dnsEgress" -}}
to:
  - namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .Values.networkPolicy.dns.namespace }}
    {{- with .Values.networkPolicy.dns.podLabels }}
    podSelector:
      matchLabels:
        {{- toYaml . | nindent 8 }}
    {{- end }}
  {{- range .Values.networkPolicy.dns.cidrs }}
  - ipBlock:
      cidr: {{ . | quote }}
  {{- end }}
ports:
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
{{- end -}}
