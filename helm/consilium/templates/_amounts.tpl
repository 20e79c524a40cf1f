{{/* Kubernetes' quantities as whole numbers: thousandths of a core, bytes. The schema has seen to their form. */}}
{{- define "consilium.millis" -}}
{{- $said := toString . -}}
{{- if hasSuffix "m" $said -}}{{ trimSuffix "m" $said | int64 }}{{- else -}}{{ mulf (float64 $said) 1000 | int64 }}{{- end -}}
{{- end -}}
{{- define "consilium.bytes" -}}
{{- $factors := dict "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $factors (regexFind "[A-Za-z]+$" .)) | int64 -}}
{{- end -}}

{{/* Refuses resources of which more is asked for than is allowed: (dict "key" "head.resources" "resources" .Values.head.resources) */}}
{{- define "consilium.checkResources" -}}
{{- $r := .resources -}}
{{- if gt (include "consilium.millis" $r.requests.cpu | int64) (include "consilium.millis" $r.limits.cpu | int64) -}}
{{- fail (printf "%s.requests.cpu: %v is more than the limit of %v; lower it, or raise %s.limits.cpu" .key $r.requests.cpu $r.limits.cpu .key) -}}
{{- end -}}
{{- if gt (include "consilium.bytes" $r.requests.memory | int64) (include "consilium.bytes" $r.limits.memory | int64) -}}
{{- fail (printf "%s.requests.memory: %s is more than the limit of %s; lower it, or raise %s.limits.memory" .key $r.requests.memory $r.limits.memory .key) -}}
{{- end -}}
{{- end -}}
