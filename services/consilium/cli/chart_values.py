"""The chart's values, as they stand in helm/consilium/values.yaml: names, ranges and choices of each key.

values.schema.json is made from these models by cli/chart_schema.py. What depends on two keys at once is refused by the chart's templates/checks.yaml; what a
key is for, and its default, stands in values.yaml. Knows Kubernetes' spellings. Does not know the templates.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine.config import PoolName

_PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"

Text: TypeAlias = Annotated[str, Field(min_length=1)]
Label: TypeAlias = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
]
Key: TypeAlias = Annotated[
    str,
    Field(pattern=rf"^({_PART}([.]{_PART})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"),
]
Variable: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
FileName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]{0,252}$")]
SecretKey: TypeAlias = Annotated[str, Field(pattern=r"^[-A-Za-z0-9_.]{1,253}$")]
ObjectName: TypeAlias = Annotated[str, Field(pattern=rf"^{_PART}([.]{_PART})*$", max_length=253)]
RoomName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9_]{0,20}[a-z0-9])?$")]
Module: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z0-9_]+)*$")]
Folder: TypeAlias = Annotated[str, Field(pattern=r"^/[^\s:]*$")]
Cores: TypeAlias = (
    Annotated[str, Field(pattern=r"^([0-9]+([.][0-9]{1,3})?|[0-9]+m)$")]
    | Annotated[float, Field(gt=0)]
)
Bytes: TypeAlias = Annotated[
    str, Field(pattern=r"^[1-9][0-9]*([.][0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)$")
]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Labels: TypeAlias = dict[Key, Label]
Annotations: TypeAlias = dict[Key, str]
Environment: TypeAlias = dict[Variable, str]
Free: TypeAlias = dict[str, object]
"""An object of Kubernetes' own, which checks it itself."""
Said: TypeAlias = Annotated[Free, Field(min_length=1)]
"""The same where an empty one would open everything."""

# Empty where the owner names none.
NoObject: TypeAlias = Annotated[str, Field(pattern=rf"^({_PART}([.]{_PART})*)?$", max_length=253)]
NoName: TypeAlias = Annotated[str, Field(pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=53)]
NoHost: TypeAlias = Annotated[
    str, Field(pattern=rf"^(([*][.])?{_PART}([.]{_PART})*)?$", max_length=253)
]


class Values(BaseModel):
    """Base of every level of ours: an unknown key is an error, and what has no default here has one in values.yaml."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class Shared(Values):
    """`global` belongs to every chart of a release, so it may hold keys that are not ours."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel)

    image_registry: Annotated[str, Field(pattern=r"^([a-z0-9][-a-z0-9.:/_]*[a-z0-9])?$")]
    image_pull_secrets: list[ObjectName]


class Image(Values):
    """One image; the digest goes before the tag."""

    repository: Annotated[
        str, Field(pattern=r"^[a-z0-9][-a-z0-9.]*(:[0-9]+)?(/[a-z0-9][-a-z0-9._]*)*$")
    ]
    tag: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?$")]
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
    pull_policy: Literal["Always", "IfNotPresent", "Never"]


class Images(Values):
    """All images."""

    gpu: Image
    cpu: Image
    services: Image
    redis: Image


class Amounts(Values):
    """Cores and memory of one container."""

    cpu: Cores
    memory: Bytes
    disk: Bytes | None = Field(None, alias="ephemeral-storage")


class Resources(Values):
    """Both are said: Ray counts its cores by the limits, the scheduler its room by the requests."""

    requests: Amounts
    limits: Amounts


class CardMetrics(Values):
    """The exporter of the cards' figures."""

    enabled: bool
    pod_resources: bool
    node_selector: Labels
    resources: Resources


class Gpu(Values):
    """What all pods with cards have."""

    resource_name: Annotated[
        str, Field(pattern=rf"^{_PART}([.]{_PART})+/[A-Za-z0-9][-A-Za-z0-9_.]*$")
    ]
    runtime_class_name: NoObject
    kubelet_root: Folder
    tolerations: list[Free]
    metrics: CardMetrics


class Head(Values):
    """The pod that leads the Ray cluster."""

    resources: Resources
    node_selector: Labels
    tolerations: list[Free]
    affinity: Free


class Worker(Values):
    """One group of pods that compute."""

    name: PoolName
    image: Literal["gpu", "cpu"]
    replicas: Annotated[int, Field(ge=1, le=256)]
    gpus: Annotated[int, Field(ge=0, le=64)]
    resources: Resources
    shared_memory: Bytes = "512Mi"
    env: Environment = Field(default_factory=dict)
    node_selector: Labels = Field(default_factory=dict)
    tolerations: list[Free] = Field(default_factory=list)
    affinity: Free = Field(default_factory=dict)


class NodePorts(Values):
    """Ports on the nodes; empty = drawn."""

    http: Port | None = None
    grpc: Port | None = None


class GatewayService(Values):
    """Where callers come in."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    annotations: Annotations
    node_ports: NodePorts


class GatewayPods(Values):
    """Where the gateway runs."""

    worker: Annotated[str, Field(pattern=r"^([a-z]([a-z0-9-]{0,30}[a-z0-9])?)?$")]
    pods: Annotated[int, Field(ge=1, le=64)]
    resources: Resources
    node_selector: Labels
    tolerations: list[Free]
    affinity: Free
    service: GatewayService


class Secrets(Values):
    """Names of Secrets; none of them stands in the values."""

    existing_secret: NoObject
    generate: Literal["auto", "true", True]
    environment_secret: NoObject


class Storage(Values):
    """A claim that the chart makes."""

    size: Bytes
    storage_class: NoObject = ""


class ExternalRedis(Values):
    """A Redis of one's own."""

    existing_secret: NoObject
    key: SecretKey
    port: Port


class Redis(Values):
    """The one that the chart runs, or where another is."""

    builtin: bool
    resources: Resources
    storage: Storage
    node_selector: Labels
    tolerations: list[Free]
    external: ExternalRedis


class Nfs(Values):
    """A folder that another machine exports."""

    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]*$")]
    path: Annotated[str, Field(pattern=r"^(/[^\s:]*)?$")]
    mount_options: list[Text]


class Cache(Values):
    """A copy on the node's own disk."""

    enabled: bool
    size: Bytes


class Prefetch(Values):
    """The Job that fetches models."""

    enabled: bool
    backoff_limit: Annotated[int, Field(ge=0, le=100)]
    resources: Resources


class Models(Values):
    """Where models lie."""

    storage: Literal["pvc", "existing", "hostPath", "nfs"]
    size: Bytes
    storage_class: NoObject
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"]
    existing_claim: NoObject
    host_path: Folder
    nfs: Nfs
    cache: Cache
    prefetch: Prefetch


class Adapters(Values):
    """The room that keeps adapters."""

    enabled: bool
    storage: Storage
    from_models: bool
    cache_size: Bytes
    resources: Resources
    node_selector: Labels
    tolerations: list[Free]


class Room(Values):
    """One service beside gateway and engines."""

    module: Module
    kind: Literal["Deployment", "DaemonSet"] = "Deployment"
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    storage: Storage | None = None
    resources: Resources | None = None
    stop_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    pod_resources: bool = False
    env: Environment = Field(default_factory=dict)
    node_selector: Labels = Field(default_factory=dict)
    tolerations: list[Free] = Field(default_factory=list)


class Ingress(Values):
    """HTTP through an ingress controller."""

    enabled: bool
    class_name: NoObject
    host: NoHost
    annotations: Annotations
    tls_secret: NoObject


class Routes(Values):
    """HTTP and gRPC through the Gateway API."""

    enabled: bool
    parents: list[Free]
    host: NoHost


class Names(Values):
    """Who answers names."""

    to: Annotated[list[Free], Field(min_length=1)]
    ports: Annotated[list[Port], Field(min_length=1)]


class Egress(Values):
    """Where pods may go besides each other and the internet."""

    dns: Names
    redis: list[Free]
    hub: list[Said]
    executors: list[Said]
    rooms: list[Said]


class NetworkPolicy(Values):
    """What may be reached from where."""

    enabled: bool
    internet: bool
    egress: Egress
    callers: list[Free]
    monitoring_namespace: Labels
    operator_namespace: Labels


class PodMonitor(Values):
    """For the Prometheus operator."""

    enabled: bool
    labels: Labels
    interval: Annotated[str, Field(pattern=r"^[1-9][0-9]*(ms|s|m|h)$")]


class Rules(Values):
    """Alerts and recorded figures."""

    enabled: bool
    labels: Labels


class Dashboards(Values):
    """For Grafana."""

    enabled: bool
    labels: Labels
    annotations: Annotations


class Monitoring(Values):
    """Who reads the pages of figures."""

    pod_monitor: PodMonitor
    rules: Rules
    dashboards: Dashboards


class Tests(Values):
    """`helm test`."""

    timeout_seconds: Annotated[int, Field(ge=20, le=3600)]


class ChartValues(Values):
    """Everything."""

    name_override: NoName
    fullname_override: NoName
    shared: Shared = Field(alias="global")
    images: Images
    config: ConsiliumConfig
    config_files: dict[FileName, str]
    gpu: Gpu
    head: Head
    workers: Annotated[list[Worker], Field(min_length=1)]
    gateway: GatewayPods
    drain_seconds: Annotated[int, Field(ge=0, le=86400)]
    secrets: Secrets
    redis: Redis
    models: Models
    adapters: Adapters
    services: dict[RoomName, Room]
    extra_rooms: str
    ingress: Ingress
    routes: Routes
    network_policy: NetworkPolicy
    monitoring: Monitoring
    skip_checks: bool
    pod_labels: Labels
    pod_annotations: Annotations
    tests: Tests
