#!/usr/bin/env bash
# What Consilium needs in a Kubernetes cluster and its chart must not own: the KubeRay operator, NVIDIA's device plugin, and, when asked for, monitoring and
# the kinds of the Gateway API. Versions are pinned. It says first what it will do; running it again changes nothing that is already so.
#
#   k8s/prerequisites/install.sh [--no-gpu] [--monitoring] [--gateway-api] [--context NAME] [--dry-run] [--yes]
set -euo pipefail

KUBERAY=1.6.2
DEVICE_PLUGIN=0.17.4
KUBE_PROMETHEUS_STACK=79.12.0
GATEWAY_API=v1.4.0
WAIT=5m

usage() {
  cat <<'TEXT'
Installs what Consilium's chart needs in a Kubernetes cluster.

  --no-gpu         leave NVIDIA's device plugin out
  --monitoring     also kube-prometheus-stack (Prometheus, Alertmanager, Grafana) in the namespace monitoring
  --gateway-api    also the kinds of the Gateway API; a controller that serves them is yours to choose
  --context NAME   of the kubeconfig (default: its current one)
  --dry-run        say what would be done, and do nothing
  --yes            do not ask
TEXT
}

fail() {
  printf 'error: %s\nnext: %s\n' "$1" "$2" >&2
  exit 1
}

gpu=true monitoring=false gateway_api=false dry_run=false yes=false context=''
while [ $# -gt 0 ]; do
  case $1 in
    --no-gpu) gpu=false ;;
    --monitoring) monitoring=true ;;
    --gateway-api) gateway_api=true ;;
    --context)
      [ $# -gt 1 ] || fail '--context needs a name' 'kubectl config get-contexts shows the names'
      context=$2
      shift
      ;;
    --dry-run) dry_run=true ;;
    --yes | -y) yes=true ;;
    --help | -h)
      usage
      exit 0
      ;;
    *)
      usage >&2
      fail "there is no option $1" 'choose one of those above'
      ;;
  esac
  shift
done

command -v kubectl >/dev/null || fail 'kubectl is not on the PATH' 'https://kubernetes.io/docs/tasks/tools/ says how; microk8s brings one: sudo snap alias microk8s.kubectl kubectl'

# Without Helm nothing can be installed, but what would be can be said.
no_helm() {
  local way='https://helm.sh/docs/intro/install/ (curl -fsSL https://raw.githubusercontent.com/helm/helm/main/scripts/get-helm-4 | bash, or snap install helm --classic, brew install helm), 3.14 or newer'
  $dry_run || fail "$1" "$way"
  printf 'warning: %s; an installation needs it\nnext: %s\n' "$1" "$way" >&2
}

kube=(kubectl)
helm=(helm)
if [ -n "$context" ]; then
  kube+=(--context "$context")
  helm+=(--kube-context "$context")
fi

if command -v helm >/dev/null; then
  version=$(helm version --short 2>/dev/null || true)
  case $version in
    v[4-9]* | v3.1[4-9].* | v3.[2-9][0-9].*) ;;
    *) no_helm "this helm is older than 3.14 ($version)" ;;
  esac
else
  no_helm 'helm is not on the PATH'
fi

"${kube[@]}" get --raw /readyz >/dev/null 2>&1 || fail 'the cluster does not answer' 'kubectl get nodes shows why; on k3s: mkdir -p ~/.kube && sudo cat /etc/rancher/k3s/k3s.yaml > ~/.kube/config && chmod 600 ~/.kube/config && export KUBECONFIG=~/.kube/config; another cluster: --context NAME'

# Which Kubernetes this is, and what differs there.
nodes=$("${kube[@]}" get nodes -o 'jsonpath={range .items[*]}{.status.nodeInfo.kubeletVersion}{" "}{.status.nodeInfo.osImage}{" "}{.metadata.labels}{"\n"}{end}')
kind=kubernetes
case $nodes in
  *+k3s*) kind=k3s ;;
  *Talos*) kind=talos ;;
  *microk8s.io/cluster*) kind=microk8s ;;
esac

plan=()
will() { plan+=("$1"); }

runtime_class=false plugin_of_others=''
if $gpu; then
  plugin_of_others=$("${kube[@]}" get daemonsets --all-namespaces -o 'jsonpath={range .items[*]}{.metadata.namespace}{"/"}{.metadata.name}{"\n"}{end}' | grep -E 'nvidia-.*device-plugin' | grep -v '^nvidia-device-plugin/' | head -n 1 || true)
  "${kube[@]}" get runtimeclass nvidia >/dev/null 2>&1 || runtime_class=true
fi

will "KubeRay operator $KUBERAY in the namespace kuberay-system, and its kinds (server-side: they are too large for a plain apply)"
if $gpu; then
  case $kind in
    k3s) will 'note: this is k3s. nvidia-container-toolkit must be on every node with cards before k3s starts there; then k3s offers the runtime nvidia by itself. Give the chart -f helm/consilium/presets/k3s.yaml' ;;
    talos) will 'note: this is Talos. Driver and toolkit come as system extensions (nonfree-kmod-nvidia, nvidia-container-toolkit), never by the GPU operator; only the device plugin is installed. Give the chart -f helm/consilium/presets/talos.yaml' ;;
    microk8s) will "note: this is MicroK8s. Its addon nvidia brings a device plugin of its own; one of the two, not both. Give the chart -f helm/consilium/presets/microk8s.yaml" ;;
    *) will 'note: nodes with cards need the driver and nvidia-container-toolkit (nvidia-ctk runtime configure --runtime=containerd)' ;;
  esac
  if $runtime_class; then will 'RuntimeClass nvidia'; fi
  if [ -n "$plugin_of_others" ]; then
    will "note: no device plugin, since $plugin_of_others is one"
  else
    will "NVIDIA device plugin $DEVICE_PLUGIN in the namespace nvidia-device-plugin, with GPU feature discovery"
  fi
fi
if $monitoring; then will "kube-prometheus-stack $KUBE_PROMETHEUS_STACK in the namespace monitoring; its Prometheus takes every PodMonitor and PrometheusRule"; fi
if $gateway_api; then will "the kinds of the Gateway API $GATEWAY_API"; fi

printf 'Into the cluster of %s:\n' "${context:-$("${kube[@]}" config current-context 2>/dev/null || echo 'this kubeconfig')}"
printf '  - %s\n' "${plan[@]}"

if ! $dry_run && ! $yes; then
  [ -t 0 ] || fail 'nobody can be asked, since this is no terminal' 'give --yes, or --dry-run to only look'
  printf 'Go on? [y/N] '
  read -r answer
  case $answer in
    y | Y | yes) ;;
    *)
      echo 'Nothing was done.'
      exit 0
      ;;
  esac
fi

run() {
  printf '+ %s\n' "$*"
  $dry_run || "$@"
}

# Applies what comes on its standard input, or only says so.
apply() {
  printf '+ %s apply --server-side --force-conflicts -f -   # %s\n' "${kube[*]}" "$1"
  if $dry_run; then
    cat >/dev/null
  else
    "${kube[@]}" apply --server-side --force-conflicts -f -
  fi
}

chart() { # release, chart, repository, version, namespace, further words
  local release=$1 name=$2 repository=$3 version=$4 space=$5
  shift 5
  run "${helm[@]}" upgrade --install "$release" "$name" --repo "$repository" --version "$version" \
    --namespace "$space" --create-namespace --wait --timeout "$WAIT" "$@"
}

# Where pods may reach into the node; Talos enforces baseline unless a namespace says otherwise.
privileged() {
  "${kube[@]}" create namespace "$1" --dry-run=client -o yaml | apply "namespace $1"
  run "${kube[@]}" label namespace "$1" --overwrite pod-security.kubernetes.io/enforce=privileged
}

kuberay=https://ray-project.github.io/kuberay-helm/
if $dry_run; then
  apply "kinds of kuberay-operator $KUBERAY" </dev/null
else
  "${helm[@]}" show crds kuberay-operator --repo "$kuberay" --version "$KUBERAY" | apply "kinds of kuberay-operator $KUBERAY"
fi
chart kuberay-operator kuberay-operator "$kuberay" "$KUBERAY" kuberay-system --skip-crds

if $gpu; then
  if $runtime_class; then
    apply 'RuntimeClass nvidia' <<'YAML'
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: nvidia}
handler: nvidia
YAML
  fi
  if [ -z "$plugin_of_others" ]; then
    privileged nvidia-device-plugin
    chart nvidia-device-plugin nvidia-device-plugin https://nvidia.github.io/k8s-device-plugin "$DEVICE_PLUGIN" nvidia-device-plugin \
      --set gfd.enabled=true --set runtimeClassName=nvidia
  fi
fi

if $monitoring; then
  privileged monitoring
  chart prometheus kube-prometheus-stack https://prometheus-community.github.io/helm-charts "$KUBE_PROMETHEUS_STACK" monitoring \
    --set prometheus.prometheusSpec.podMonitorSelectorNilUsesHelmValues=false --set prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues=false
fi

if $gateway_api; then
  run "${kube[@]}" apply --server-side --force-conflicts -f "https://github.com/kubernetes-sigs/gateway-api/releases/download/$GATEWAY_API/standard-install.yaml"
fi

if $dry_run; then
  echo 'Nothing was done.'
else
  echo 'Done. consilium doctor --cluster -f VALUES says whether an installation would run.'
fi
