"""grpc.reflection, v1 and v1alpha: what callers may learn of the services here, and nothing of the others.

The library's servicer answers from every descriptor that the process has loaded, those of inner services too. This one has a pool of its own, with the
services that are named, their methods that are named, and the messages of their files. Knows descriptors. Does not know servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1: Final = "grpc.reflection.v1.ServerReflection"
V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
NAMES: Final = (V1ALPHA, V1)


def add(server: Any, shown: Mapping[str, frozenset[str] | None]) -> None:
    """Add both versions to a grpc.aio server.

    shown  full name of a service -> names of its methods that are shown, None = all

    The descriptors of the services must have been imported. Raises KeyError for one that was not.
    """
    servicer = reflection.aio.ReflectionServicer((*shown, *NAMES), pool=_Symbols(_pool(shown)))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    # The messages of the two versions are the same on the wire.
    for name in NAMES:
        handler = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        server.add_generic_rpc_handlers((handler,))


class _Symbols:
    """A pool that finds methods as well: the protocol counts them as symbols, Python's pool does not, and ghz asks for nothing else."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802  the pool's name for it
        """Return the file that declares a symbol. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def _pool(shown: Mapping[str, frozenset[str] | None]) -> descriptor_pool.DescriptorPool:
    made = descriptor_pool.DescriptorPool()
    known = descriptor_pool.Default()
    added: set[str] = set()

    def take(file: Any) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for needed in file.dependencies:
            take(needed)
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        _hide(proto, shown)
        made.AddSerializedFile(proto.SerializeToString())

    for name in shown:
        take(known.FindFileContainingSymbol(name))
    proto = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(proto)
    text = json_format.MessageToJson(proto)
    for version in (text, text.replace("v1alpha", "v1")):
        made.AddSerializedFile(
            json_format.Parse(version, descriptor_pb2.FileDescriptorProto()).SerializeToString()
        )
    return made


def _hide(proto: Any, shown: Mapping[str, frozenset[str] | None]) -> None:
    """Take out of a file the services that are not shown, and the methods that are not."""
    for at in reversed(range(len(proto.service))):
        service = proto.service[at]
        name = f"{proto.package}.{service.name}" if proto.package else service.name
        if name not in shown:
            del proto.service[at]
            continue
        methods = shown[name]
        for number in reversed(range(len(service.method))):
            if methods is not None and service.method[number].name not in methods:
                del service.method[number]
