{{/* Names. A RayService may have 47 characters; what hangs on the name has up to seven more. */}}
{{- define "consilium.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "consilium.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "consilium.labels" -}}
{{ include "consilium.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* (dict "root" $ "image" .Values.images.x) */}}
{{- define "consilium.image" -}}
{{- $repository := .image.repository -}}
{{- if .root.Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" .root.Values.global.imageRegistry (regexReplaceAll "^[^/]+[.:][^/]*/" $repository "") -}}
{{- end -}}
{{- if .image.digest -}}{{ $repository }}@{{ .image.digest }}
{{- else -}}{{ $repository }}:{{ default .root.Chart.AppVersion .image.tag }}{{- end -}}
{{- end -}}

{{- define "consilium.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "consilium.secret" -}}
{{- default (include "consilium.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{/* Where models lie: the claim's name. */}}
{{- define "consilium.modelsClaim" -}}
{{- if eq .Values.models.storage "existing" -}}
{{- required "models.existingClaim: name the claim, or set models.storage to pvc" .Values.models.existingClaim -}}
{{- else -}}{{ include "consilium.fullname" . }}-models{{- end -}}
{{- end -}}

{{/* Time that pods with running answers get: closing the face and its answers, the replicas, Ray's own 30 s, and slack. */}}
{{- define "consilium.faceSeconds" -}}
{{- $gateway := default dict .Values.config.gateway -}}
{{- int (ceil (float64 (default 30 $gateway.drain_s))) -}}
{{- end -}}
{{/* Where another pod has a gateway too: until nobody sends new callers here any more, which each node learns by itself. */}}
{{- define "consilium.settleSeconds" -}}
{{- ternary 5 0 (gt (include "consilium.gatewayPods" . | int) 1) -}}
{{- end -}}
{{- define "consilium.graceSeconds" -}}
{{- add (include "consilium.settleSeconds" . | int) (include "consilium.faceSeconds" . | int) (int .Values.drainSeconds) 30 10 -}}
{{- end -}}

{{/* What must be started again when it changes: all but the sections that running processes take over. */}}
{{- define "consilium.engineRevision" -}}
{{- $said := pick .Values.config "model" "topology" "engine" "executors" -}}
{{- $texts := dict -}}
{{- range $row := prepend (values (default dict .Values.config.executors)) .Values.config -}}
{{- $file := (default dict $row.engine).chat_template | default "" -}}
{{- if hasKey $.Values.configFiles $file -}}{{- $_ := set $texts $file (get $.Values.configFiles $file) -}}{{- end -}}
{{- end -}}
{{- /* The first adapter turns LoRA on where engine.lora does not; those that follow are loaded while engines run. */}}
{{- $adapters := and .Values.config.adapters (kindIs "invalid" (default dict .Values.config.engine).lora) | empty | not -}}
{{- /* Engines with adapters are told at their start where the room of adapters is, and whether there is one. */}}
{{- $lora := or $adapters (kindIs "map" (default dict .Values.config.engine).lora) -}}
{{- range values (default dict .Values.config.executors) -}}{{- $lora = or $lora (kindIs "map" (default dict .engine).lora) -}}{{- end -}}
{{- $keeper := ternary (printf "%s-lora-router" (include "consilium.fullname" .)) "" (and $lora (include "consilium.keepsAdapters" . | empty | not)) -}}
{{- list $said $texts $adapters $keeper | toJson | sha256sum | trunc 16 -}}
{{- end -}}
{{- define "consilium.gatewayRevision" -}}
{{- list (omit .Values.config "roles" "profiles" "adapters") (include "consilium.rooms" .) (include "consilium.gatewayReplicas" .) | toJson | sha256sum | trunc 16 -}}
{{- end -}}
{{/* Who is asked at which address: it changes with the rooms that there are. */}}
{{- define "consilium.rooms" -}}
{{- keys (include "consilium.services" . | fromYaml) | sortAlpha | join " " -}}
{{- end -}}

{{/*
The rooms: those of `services`; where a group has NVIDIA's cards, the exporter of their figures; and the one that keeps adapters. Of the two that are ours,
services.NAME may say something else.
*/}}
{{- define "consilium.services" -}}
{{- $rooms := deepCopy .Values.services -}}
{{- $own := .Values.gpu.metrics -}}
{{- if and $own.enabled (gt (include "consilium.cards" . | int) 0) (hasPrefix "nvidia.com/" .Values.gpu.resourceName) -}}
{{- $row := dict "module" "consilium.gpu_metrics.app" "kind" "DaemonSet" "seesCards" true "podResources" $own.podResources "nodeSelector" $own.nodeSelector "resources" $own.resources "stopSeconds" 3 -}}
{{- $_ := set $rooms "gpu_metrics" (mergeOverwrite (deepCopy $row) (default dict $rooms.gpu_metrics)) -}}
{{- end -}}
{{- $keeps := .Values.adapters -}}
{{- if $keeps.enabled -}}
{{- $env := dict -}}
{{- if not (hasKey (default dict .Values.config.lora_router) "store_gib") -}}
{{- $_ := set $env "CONSILIUM_LORA_ROUTER__STORE_GIB" (include "consilium.storeGib" .) -}}
{{- end -}}
{{- $row := dict "module" "consilium.lora_router.app" "storage" $keeps.storage "nodeSelector" $keeps.nodeSelector "tolerations" $keeps.tolerations "resources" $keeps.resources "stopSeconds" 10 "asksHub" true "seesModels" $keeps.fromModels "ownEnv" $env -}}
{{- $_ := set $rooms "lora_router" (mergeOverwrite (deepCopy $row) (default dict $rooms.lora_router)) -}}
{{- end -}}
{{- toYaml $rooms -}}
{{- end -}}

{{/* Whether anybody keeps adapters; empty = no. */}}
{{- define "consilium.keepsAdapters" -}}
{{- if or .Values.adapters.enabled (hasKey .Values.services "lora_router") }}yes{{ end -}}
{{- end -}}
{{- define "consilium.storeSize" -}}
{{- $said := default dict (default dict .Values.services.lora_router).storage -}}
{{- default .Values.adapters.storage.size $said.size -}}
{{- end -}}
{{/* What adapters may take of their claim, in GiB: four fifths, with two figures behind the point. */}}
{{- define "consilium.storeGib" -}}
{{- $bytes := include "consilium.bytes" (include "consilium.storeSize" .) | float64 -}}
{{- printf "%.2f" (divf (mulf $bytes 0.8) 1073741824.0) -}}
{{- end -}}

{{/* Nodes with cards: as NVIDIA's device plugin finds them itself, as its discovery and its operator label them, and as the groups with cards name theirs. */}}
{{- define "consilium.nodesWithCards" -}}
{{- $yes := list "true" -}}
{{- $terms := list (dict "matchExpressions" (list (dict "key" "nvidia.com/gpu.present" "operator" "In" "values" $yes))) -}}
{{- $terms = append $terms (dict "matchExpressions" (list (dict "key" "nvidia.com/gpu.product" "operator" "Exists"))) -}}
{{- $terms = append $terms (dict "matchExpressions" (list (dict "key" "feature.node.kubernetes.io/pci-10de.present" "operator" "In" "values" $yes))) -}}
{{- range .Values.workers -}}
{{- if and (gt (int .gpus) 0) .nodeSelector -}}
{{- $named := list -}}
{{- range $key, $value := .nodeSelector -}}{{- $named = append $named (dict "key" $key "operator" "In" "values" (list $value)) -}}{{- end -}}
{{- $terms = append $terms (dict "matchExpressions" $named) -}}
{{- end -}}
{{- end -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms: {{- toYaml (uniq $terms) | nindent 6 }}
{{- end -}}
{{- define "consilium.tolerationsOfCards" -}}
{{- $all := .Values.gpu.tolerations -}}
{{- range .Values.workers -}}{{- if gt (int .gpus) 0 -}}{{- $all = concat $all (default list .tolerations) -}}{{- end -}}{{- end -}}
{{- toYaml (uniq $all) -}}
{{- end -}}

{{/* Cards and nodes of all groups together, for the engines to wait for. */}}
{{- define "consilium.cards" -}}
{{- $n := 0 -}}{{- range .Values.workers -}}{{- $n = add $n (mul (int .gpus) (int .replicas)) -}}{{- end -}}{{ $n }}
{{- end -}}
{{- define "consilium.pods" -}}
{{- $n := 0 -}}{{- range .Values.workers -}}{{- $n = add $n (int .replicas) -}}{{- end -}}{{ $n }}
{{- end -}}

{{/* Pods that have a place for gateways, how many gateways there are (one in each pod, where config.gateway.replicas says nothing), and places in one pod. */}}
{{- define "consilium.gatewayPods" -}}
{{- $pods := int .Values.gateway.pods -}}
{{- range .Values.workers -}}{{- if eq .name $.Values.gateway.worker -}}{{- $pods = int .replicas -}}{{- end -}}{{- end -}}{{ $pods }}
{{- end -}}
{{- define "consilium.gatewayReplicas" -}}
{{- default (include "consilium.gatewayPods" .) (default dict .Values.config.gateway).replicas | int -}}
{{- end -}}
{{- define "consilium.gatewayPlaces" -}}
{{- $pods := include "consilium.gatewayPods" . | int -}}
{{- div (add (include "consilium.gatewayReplicas" . | int) $pods -1) (max $pods 1) -}}
{{- end -}}

{{- define "consilium.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "consilium.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The Job that fetches models. A Job cannot be edited: whatever changes in it makes another one. */}}
{{- define "consilium.fetchName" -}}
{{- $made := list (include "consilium.engineRevision" .) .Chart.Version .Chart.AppVersion .Values.images.services .Values.global .Values.models .Values.secrets .Values.redis .Values.extraRooms .Values.podLabels .Values.podAnnotations -}}
{{ include "consilium.fullname" . }}-fetch-{{ $made | toJson | sha256sum | trunc 8 }}
{{- end -}}

{{/* What every process of the cluster is told. */}}
{{- define "consilium.environment" -}}
{{- include "consilium.ownEnvironment" . }}
{{- include "consilium.redisEnvironment" . }}
{{- end -}}
{{- define "consilium.ownEnvironment" -}}
- {name: CONSILIUM_STATE, value: /var/lib/consilium}
- {name: CONSILIUM_TOKEN, valueFrom: {secretKeyRef: {name: {{ include "consilium.secret" . }}, key: token}}}
{{- if .Values.extraRooms }}
- {name: CONSILIUM_ROOMS, value: {{ .Values.extraRooms | quote }}}
{{- end }}
{{- end -}}
{{- define "consilium.redisEnvironment" }}
{{- if .Values.redis.builtin }}
- {name: CONSILIUM_REDIS__URL, valueFrom: {secretKeyRef: {name: {{ include "consilium.secret" . }}, key: redis-url}}}
{{- else if .Values.redis.external.existingSecret }}
- {name: CONSILIUM_REDIS__URL, valueFrom: {secretKeyRef: {name: {{ .Values.redis.external.existingSecret }}, key: {{ .Values.redis.external.key }}}}}
{{- end }}
{{- end -}}

{{/* And those of Ray on top. files/serve.env is made by the code that `consilium up` runs with, and held against it by a test. */}}
{{- define "consilium.rayEnvironment" -}}
{{ include "consilium.environment" . }}
- {name: CONSILIUM_SECRET, valueFrom: {secretKeyRef: {name: {{ include "consilium.secret" . }}, key: secret}}}
- {name: CONSILIUM_ADMIN_KEY, valueFrom: {secretKeyRef: {name: {{ include "consilium.secret" . }}, key: admin-key}}}
{{- range .Files.Lines "files/serve.env" }}
{{- if . }}
{{- $pair := splitn "=" 2 . }}
- {name: {{ $pair._0 }}, value: {{ $pair._1 | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "consilium.environmentFrom" -}}
{{- with .Values.secrets.environmentSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* What the operator would write into a group by itself. Unsaid, the group is the operator's from then on, and Helm 4's next upgrade ends in a conflict over it. */}}
{{- define "consilium.operatorDefaults" -}}
numOfHosts: 1
scaleStrategy: {}
{{- end -}}

{{/* Ray's object store, which holds nothing large here. Unsaid it is a third of the pod's memory, finds /dev/shm too small, and goes to the disk. */}}
{{- define "consilium.objectStore" -}}
object-store-memory: "134217728"
{{- end -}}

{{/*
A quantity as Kubernetes itself would write it: 1000m is "1", 1.5Gi is 1536Mi, and a number is text. The operator writes a RayService back in this form; what stands
there in another form is the operator's from then on, and Helm 4's next upgrade ends in a conflict over it.
*/}}
{{- define "consilium.quantity" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $number := trimSuffix $unit $text -}}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)?$" $number) -}}{{- $text -}}
{{- else if has $unit (list "" "m") -}}
{{- $thousandths := ternary (float64 $number) (mulf (float64 $number) 1000) (eq $unit "m") | ceil | int64 -}}
{{- if mod $thousandths 1000 -}}{{ $thousandths }}m{{- else -}}{{ div $thousandths 1000 }}{{- end -}}
{{- else if has $unit (list "Ki" "Mi" "Gi" "Ti") -}}
{{- $bytes := float64 $number -}}
{{- range until (add1 (index (dict "Ki" 0 "Mi" 1 "Gi" 2 "Ti" 3) $unit) | int) -}}{{- $bytes = mulf $bytes 1024 -}}{{- end -}}
{{- $n := $bytes | ceil | int64 -}}{{- $written := "" -}}
{{- range list "" "Ki" "Mi" "Gi" "Ti" -}}
{{- if not (hasSuffix "!" $written) -}}
{{- if or (mod $n 1024) (eq . "Ti") -}}{{- $written = printf "%d%s!" $n . -}}{{- else -}}{{- $n = div $n 1024 -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- trimSuffix "!" $written -}}
{{- else -}}{{- $text -}}{{- end -}}
{{- end -}}
{{/* A number of bytes in the same form. */}}
{{- define "consilium.wholeBytes" -}}
{{- if mod (int64 .) 1048576 -}}{{ int64 . }}{{- else -}}{{ include "consilium.quantity" (printf "%dMi" (div (int64 .) 1048576)) }}{{- end -}}
{{- end -}}
{{- define "consilium.quantities" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ include "consilium.quantity" $value | quote }}
{{- end }}
{{- end -}}

{{/* A pod of Ray: (dict "root" $ "group" worker-or-head-or-gateway "kind" "head|worker|gateway") */}}
{{- define "consilium.rayPod" -}}
{{- $root := .root -}}{{- $group := .group -}}
{{- $onCards := gt (int (default 0 $group.gpus)) 0 -}}
{{- $isAlone := and (eq .kind "worker") (eq (include "consilium.pods" $root | int) 1) (eq $group.name $root.Values.gateway.worker) -}}
{{- $faces := or (eq .kind "gateway") (and (eq .kind "worker") (eq $group.name $root.Values.gateway.worker)) -}}
metadata:
  labels:
    {{- include "consilium.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .kind }}
    consilium/page: "true"
    {{- if eq .kind "worker" }}
    consilium/pool: {{ $group.name }}
    {{- end }}
    {{- if $faces }}
    consilium/gateway: "true"
    {{- end }}
    {{- with $root.Values.podLabels }}{{ toYaml . | nindent 4 }}{{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: ray-{{ ternary "head" "worker" (eq .kind "head") }}
    {{- with $root.Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{- end }}
spec:
  {{- include "consilium.pullSecrets" $root | nindent 2 }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "consilium.graceSeconds" $root }}
  {{- if and $onCards $root.Values.gpu.runtimeClassName }}
  runtimeClassName: {{ $root.Values.gpu.runtimeClassName }}
  {{- end }}
  securityContext: {{- include "consilium.podSecurity" $root | nindent 4 }}
  {{- with $group.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $tolerations := concat (default list $group.tolerations) (ternary $root.Values.gpu.tolerations list $onCards) }}
  {{- with $tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and (eq .kind "worker") $root.Values.models.cache.enabled }}
  initContainers:
    - name: models-to-disk
      image: {{ include "consilium.image" (dict "root" $root "image" $root.Values.images.services) }}
      imagePullPolicy: {{ $root.Values.images.services.pullPolicy }}
      command: [consilium, models, fetch, --config, /etc/consilium/consilium.yaml, --from, /models, --into, /var/lib/consilium/models]
      env: {{- include "consilium.environment" $root | nindent 8 }}
      securityContext: {{- include "consilium.containerSecurity" $root | nindent 8 }}
      resources:
        {{- range $kind, $row := $root.Values.models.prefetch.resources }}
        {{ $kind }}:
          {{- include "consilium.quantities" $row | nindent 10 }}
        {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/consilium, readOnly: true}
        - {name: models, mountPath: /models, readOnly: true}
        - {name: models-on-disk, mountPath: /var/lib/consilium/models}
        - {name: tmp, mountPath: /tmp}
  {{- end }}
  containers:
    - name: ray-{{ ternary "head" "worker" (eq .kind "head") }}
      {{- $image := index $root.Values.images (ternary "gpu" "cpu" (eq (default "cpu" $group.image) "gpu")) }}
      image: {{ include "consilium.image" (dict "root" $root "image" $image) }}
      imagePullPolicy: {{ $image.pullPolicy }}
      env:
        {{- include "consilium.rayEnvironment" $root | nindent 8 }}
        # How long Ray waits for its engines to move to another pod. Where there is none they cannot, and what asks them was waited for by preStop.
        - {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ ternary "0" "30" (or (eq .kind "head") $isAlone) | quote }}}
        {{- if and (eq .kind "worker") (include "consilium.keepsAdapters" $root) }}
        # Most that copies of adapters take. It stands in the pod, as the limit of its disk does: both change together.
        - {name: CONSILIUM_ENGINE__ADAPTER_CACHE_GIB, value: {{ printf "%.9g" (divf (include "consilium.bytes" $root.Values.adapters.cacheSize | float64) 1073741824.0) | quote }}}
        {{- end }}
        {{- range $name, $value := default dict $group.env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      {{- include "consilium.environmentFrom" $root | nindent 6 }}
      ports:
        {{- if eq .kind "head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: as-metrics, containerPort: 44217}
        - {name: dash-metrics, containerPort: 44227}
        {{- end }}
        - {name: serve, containerPort: 8000}
        - {name: metrics, containerPort: 8080}
        {{- if $faces }}
        - {name: grpc, containerPort: 9000}
        {{- end }}
      lifecycle:
        preStop:
          exec:
            command: [consilium, drain, --local, --limit, {{ include "consilium.faceSeconds" $root | quote }}, --settle, {{ ternary (include "consilium.settleSeconds" $root) "0" $faces | quote }}]
      {{- if $faces }}
      # In place of the operator's, which runs three programs in the pod within two seconds, and sends callers away after one such try that a busy engine made slow.
      readinessProbe:
        httpGet: {path: /-/healthz, port: serve}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      {{- end }}
      securityContext: {{- include "consilium.containerSecurity" $root | nindent 8 }}
      resources:
        requests:
          {{- include "consilium.quantities" $group.resources.requests | nindent 10 }}
          {{- if $onCards }}
          {{ $root.Values.gpu.resourceName }}: {{ $group.gpus | quote }}
          {{- end }}
        limits:
          {{- include "consilium.quantities" $group.resources.limits | nindent 10 }}
          {{- if $onCards }}
          {{ $root.Values.gpu.resourceName }}: {{ $group.gpus | quote }}
          {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/consilium, readOnly: true}
        - {name: state, mountPath: /var/lib/consilium}
        {{- if eq .kind "worker" }}
        - {name: {{ ternary "models-on-disk" "models" $root.Values.models.cache.enabled }}, mountPath: /var/lib/consilium/models}
        {{- end }}
        - {name: run, mountPath: /run/consilium}
        - {name: figures, mountPath: /run/consilium/metrics}
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /home/consilium}
        - {name: shared-mem, mountPath: /dev/shm}
    - name: page
      image: {{ include "consilium.image" (dict "root" $root "image" $root.Values.images.services) }}
      imagePullPolicy: {{ $root.Values.images.services.pullPolicy }}
      command: [python, -m, consilium.supervisor.pod_page, --folder, /run/consilium/metrics, --ray, "http://127.0.0.1:8080/metrics", --listen, "0.0.0.0:9400"]
      ports:
        - {name: page, containerPort: 9400}
      readinessProbe:
        httpGet: {path: /healthz, port: page}
        periodSeconds: 10
      livenessProbe:
        httpGet: {path: /healthz, port: page}
        periodSeconds: 20
        failureThreshold: 6
      securityContext: {{- include "consilium.containerSecurity" $root | nindent 8 }}
      resources:
        requests: {cpu: 10m, memory: 64Mi}
        limits: {cpu: 500m, memory: 256Mi}
      volumeMounts:
        - {name: figures, mountPath: /run/consilium/metrics}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: config, configMap: {name: {{ include "consilium.fullname" $root }}}}
    {{- if eq .kind "worker" }}
    - {name: models, persistentVolumeClaim: {claimName: {{ include "consilium.modelsClaim" $root }}}}
    {{- if $root.Values.models.cache.enabled }}
    - {name: models-on-disk, emptyDir: {sizeLimit: {{ include "consilium.quantity" $root.Values.models.cache.size | quote }}}}
    {{- end }}
    {{- end }}
    {{- if and (eq .kind "worker") (include "consilium.keepsAdapters" $root) }}
    # Copies of adapters lie beside the rest, as many as engines are told by the variable above.
    - {name: state, emptyDir: {sizeLimit: {{ add 2147483648 (include "consilium.bytes" $root.Values.adapters.cacheSize | int64) | include "consilium.wholeBytes" | quote }}}}
    {{- else }}
    - {name: state, emptyDir: {sizeLimit: 2Gi}}
    {{- end }}
    - {name: run, emptyDir: {sizeLimit: 64Mi}}
    - {name: figures, emptyDir: {sizeLimit: 256Mi}}
    - {name: tmp, emptyDir: {sizeLimit: 10Gi}}
    - {name: home, emptyDir: {sizeLimit: 10Gi}}
    - {name: shared-mem, emptyDir: {medium: Memory, sizeLimit: {{ include "consilium.quantity" (default "512Mi" $group.sharedMemory) | quote }}}}
{{- end -}}
