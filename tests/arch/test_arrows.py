"""Who may import what. Arrows run down: cli -> clients, app -> servicer, backends -> rules, ports -> kernel.errors."""

import sys

import pytest
from tests.arch.source import PACKAGE, Source, sources

NOT_RULES = {
    "cli": "commands talk to people, processes and clients",
    "supervisor": "looks after processes, probes and folders",
    "kernel": "the kernel stands on the libraries so that the rooms need not; its own arrows are tested below",
}
"""Rooms whose files are no rules."""

EDGES = ("__init__.py", "app.py", "config.py", "doctor.py", "servicer.py", "routes.py", "client.py")
"""Files in which a room meets frameworks, besides backends/, grpc_*.py (the parts of a servicer) and http_*.py (the parts of routes.py)."""

OTHER_EDGES = {
    "engine/deployment.py": "the Serve class around an engine",
    "demo/hub.py": "downloads models by the hub's own library",
    "engine/machine.py": "asks the machine what it has",
    "gateway/encodings.py": "opens bodies in zstd by the library of that name",
    "gateway/authority.py": "asks the key store, and holds the local bucket for the time that Redis is away",
    "gateway/meter.py": "counts in Prometheus",
    "gateway/config_desk.py": "reads and writes the file of the configuration",
    "gateway/live_tables.py": "follows the file of the configuration",
    "gateway/room_tables.py": "opens a channel to each room that streams a table",
    "gateway/adapters.py": "keeps the vectors of adapters' texts, and asks their room for sums",
    "gateway/meaning.py": "products of vectors",
    "gateway/shortlist.py": "products of vectors",
    "lora_router/opening.py": "puts the room together, and follows the configuration",
    "gateway/serve_bodies.py": "a middleware for Serve's own HTTP servers",
    "gateway/public_face.py": "puts the two servers of the gateway together, for its process and for tests",
    "gateway/wiring.py": "puts the parts of the gateway together, for its process and for tests",
    "planner/money.py": "reads the owner's price file, which is YAML",
    "engine/cards_held.py": "asks Ray and the driver which cards a process has",
    "engine/multinode.py": "actors that hold the follower ranks of one engine over several nodes",
    "engine/no_http.py": "answers what Serve hands to a deployment",
    "engine/ray_head.py": "starts Ray's head process",
    "engine/request_router.py": "Serve's hook for choosing a replica; the rule is affinity.py",
}
"""Further files that touch a framework, each with its reason."""

ARRAYS = {
    "embedding": "vectors are arrays",
    "demo": "weights are arrays",
    "lora_router": "factors of adapters are arrays",
}
"""Rooms whose rules work on numpy arrays."""

KERNEL_WIRE = {
    "kernel/table_service.py": "every room streams its tables by the same servicer",
    "kernel/table_client.py": "and everybody follows them by the same client",
}
"""Files of the kernel that speak a proto of the house, each with its reason."""

LIBRARIES = {
    "planner": "a pure library",
    "demo": "makes the model folders that engine and cli open",
}
"""Rooms without a process: any other room imports them directly."""

SMALL_KERNEL = {
    "consilium.kernel.errors",
    "consilium.kernel.catalogue",
    "consilium.kernel.catalogue_adapters",
    "consilium.kernel.catalogue_arrival",
    "consilium.kernel.catalogue_row",
    "consilium.kernel.clock",
    "consilium.kernel.disk_sync",
    "consilium.kernel.json_bytes",
    "consilium.kernel.logs",
    "consilium.kernel.openai_errors",
    "consilium.kernel.origins",
    "consilium.kernel.service_config",
    "consilium.kernel.sse",
    "consilium.kernel.tables",
    "consilium.kernel.principals",
    "consilium.kernel.redis_steps",
    "consilium.kernel.rooms",
    "consilium.kernel.trace_context",
    "consilium.kernel.unread",
    "consilium.kernel",
}
"""What rule files may take from the kernel."""

DIRECT = {
    ("supervisor/gateway_link.py", "gateway"): "makes the local key before a gateway listens",
    (
        "supervisor/pod_rollback.py",
        "gateway",
    ): "asks which version of its records a gateway of this program knows",
    (
        "cli/adapter_bases.py",
        "lora_router",
    ): "adapters are held against models before a cluster runs",
    ("cli/adapter_check.py", "lora_router"): "adapters are checked where no cluster runs",
    ("cli/keys.py", "gateway"): "keys are made where no gateway needs to run",
    (
        "cli/adapters.py",
        "lora_router",
    ): "fetches an adapter and reads its header where it lies, before it is sent",
    (
        "cli/config_tree.py",
        "lora_router",
    ): "names the folders of adapters from the root",
    (
        "cli/preflight_adapters.py",
        "lora_router",
    ): "asks before a start whether adapters fit, which the room cannot tell before it runs",
    ("cli/why.py", "gateway"): "tells a receipt by the rule that wrote it",
    ("cli/dashboards.py", "gpu_metrics"): "dashboards and rules are files of that room",
    ("cli/chart_boards.py", "gpu_metrics"): "the chart has copies of them",
}
"""Files that reach into a room without its client, each with its reason."""

SPOKEN = ("client", "ports")
"""What other rooms may import of a room: its client, and the values and Protocols that its client speaks."""


def is_edge(source: Source) -> bool:
    return (
        source.room in NOT_RULES
        or "/" not in source.name
        or source.path.name in EDGES
        or "/backends/" in source.name
        or source.path.name.startswith(("grpc_", "http_"))
        or source.name in OTHER_EDGES
    )


def told(source: Source, line: int, what: str) -> str:
    return f"services/consilium/{source.name}:{line}: {what}"


def test_ray_is_imported_in_engine_and_the_gateways_ingress_only():
    wrong = [
        told(source, imported.line, imported.module)
        for source in sources()
        for imported in source.imports
        if imported.top == "ray" and source.room != "engine" and source.name != "gateway/app.py"
    ]
    assert not wrong, "\n".join(wrong)


def test_vllm_is_imported_in_engine_only():
    wrong = [
        told(source, i.line, i.module)
        for source in sources()
        for i in source.imports
        if i.top == "vllm" and source.room != "engine"
    ]
    assert not wrong, "\n".join(wrong)


def test_rule_files_import_the_standard_library_and_kernel_errors_only():
    wrong = []
    for source in sources():
        if is_edge(source):
            continue
        for imported in source.imports:
            own_room = imported.module == "consilium" or imported.module.startswith(
                f"consilium.{source.room}"
            )
            arrays = imported.top == "numpy" and source.room in ARRAYS
            library = imported.module.startswith(tuple(f"consilium.{room}" for room in LIBRARIES))
            spoken = (
                imported.top == "consilium"
                and imported.module.split(".")[2:3]
                and imported.module.split(".")[2] in SPOKEN
            )
            if not (
                imported.top in sys.stdlib_module_names
                or own_room
                or arrays
                or library
                or spoken
                or imported.module in SMALL_KERNEL
            ):
                wrong.append(told(source, imported.line, imported.module))
    assert not wrong, (
        "rules take values and give values; what needs a framework belongs into app.py, servicer.py, routes.py or backends/:\n"
        + "\n".join(wrong)
    )


def test_rules_do_not_import_their_rooms_backends_or_faces():
    wrong = [
        told(source, imported.line, imported.module)
        for source in sources()
        if not is_edge(source)
        for imported in source.imports
        if ".backends" in imported.module
        or (
            imported.module.rpartition(".")[2] in ("app", "servicer", "routes")
            and imported.module.startswith("consilium.")
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_meet_through_client_and_its_ports_only():
    rooms = {source.room for source in sources() if "/" in source.name}
    wrong = []
    for source in sources():
        for imported in source.imports:
            parts = imported.module.split(".")
            if parts[0] != "consilium" or len(parts) < 2 or parts[1] not in rooms:
                continue
            room, file = parts[1], ".".join(parts[2:3])
            free = (
                (source.room == "cli" and room == "supervisor")
                or room in (source.room, "kernel")
                or room in LIBRARIES
                or (source.name, room) in DIRECT
            )
            if not (
                free
                or file in SPOKEN
                or (file == "doctor" and source.name.startswith("cli/doctor"))
                or (
                    file == "config"
                    and (source.room in ("cli", "supervisor") or source.path.name == "app.py")
                )
            ):
                wrong.append(told(source, imported.line, imported.module))
    assert not wrong, (
        "another room is reached through its client.py and its ports.py (config.py by cli and app.py):\n"
        + "\n".join(wrong)
    )


def test_the_kernel_knows_no_room():
    wrong = [
        told(source, imported.line, imported.module)
        for source in sources()
        if source.room == "kernel"
        for imported in source.imports
        if imported.top == "consilium"
        and not imported.module.startswith("consilium.kernel")
        and not (source.name in KERNEL_WIRE and imported.module.startswith("consilium.v1"))
    ]
    assert not wrong, "\n".join(wrong)


def test_errors_and_catalogue_stand_on_the_standard_library_alone():
    wrong = [
        told(source, imported.line, imported.module)
        for source in sources()
        if source.name
        in (
            "kernel/errors.py",
            "kernel/catalogue.py",
            "kernel/catalogue_adapters.py",
            "kernel/catalogue_arrival.py",
            "kernel/catalogue_row.py",
            "kernel/clock.py",
        )
        for imported in source.imports
        if imported.top not in sys.stdlib_module_names and imported.module not in SMALL_KERNEL
    ]
    assert not wrong, "\n".join(wrong)


def test_wire_objects_stay_in_servicer_and_client():
    wrong = [
        told(source, imported.line, imported.module)
        for source in sources()
        for imported in source.imports
        if imported.module.startswith("consilium.v1")
        and not (
            source.path.name in ("servicer.py", "client.py", "app.py")
            or source.path.name.startswith("grpc_")
            or source.name in KERNEL_WIRE
        )
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "table",
    [
        OTHER_EDGES,
        {file: "" for file, _ in DIRECT},
        dict.fromkeys(NOT_RULES, ""),
        KERNEL_WIRE,
        dict.fromkeys(ARRAYS, ""),
        dict.fromkeys(LIBRARIES, ""),
    ],
)
def test_the_tables_of_this_file_name_what_is_there(table):
    gone = [name for name in table if not (PACKAGE / name).exists()]
    assert not gone, f"no longer there: {gone}"
