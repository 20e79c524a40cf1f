"""Where a service listens, and what of a body an upload begins with."""

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.service_config import Address, places
from consilium.kernel.uploads import offset_of, size_of

SERVICES = {
    "jobs": Address(grpc="127.0.0.1:7", http="http://127.0.0.1:8/", metrics="http://[::1]:9"),
    "far": Address(grpc="dns:///jobs:50051"),
}


def test_a_service_listens_where_its_callers_look_for_it_unless_it_is_told_otherwise():
    at = places("jobs", SERVICES)
    assert (at.grpc, at.http, at.metrics) == (("127.0.0.1", 7), ("127.0.0.1", 8), ("::1", 9))
    at = places("far", SERVICES, grpc="0.0.0.0:50051", metrics="0.0.0.0:0")
    assert (at.grpc, at.http, at.metrics) == (("0.0.0.0", 50051), None, ("0.0.0.0", 0))


@pytest.mark.parametrize("name", ["far", "nobody"])
def test_an_address_that_only_callers_can_use_is_no_place_to_listen(name):
    with pytest.raises(ConsiliumError) as told:
        places(name, SERVICES)
    assert told.value.code == "config_invalid"
    assert f"services.{name}.grpc" in told.value.public()
    assert "--listen HOST:PORT" in told.value.public()


@pytest.mark.parametrize("address", [":1", "host", "host:", "host:x", "host:70000", "a/b:1"])
def test_what_is_no_address_is_refused_with_its_flag(address):
    with pytest.raises(ConsiliumError) as told:
        places("jobs", SERVICES, http=address)
    assert repr(address) in told.value.public()
    assert "--http" in told.value.public()


@pytest.mark.parametrize(
    ("query", "header", "offset"),
    [
        (b"", None, 0),
        (b"offset=12", None, 12),
        (b"a=b&offset=3", None, 3),
        (b"", b"bytes 5-9/10", 5),
        (b"", b"bytes 5-9/*", 5),
        (b"offset=3", b"bytes 5-9/10", 5),
    ],
)
def test_a_body_begins_where_the_query_or_the_header_says(query, header, offset):
    headers = [(b"content-range", header)] if header else []
    assert offset_of({"query_string": query, "headers": headers}) == offset


def test_a_file_that_is_not_there_has_no_bytes(tmp_path):
    assert size_of(tmp_path / "no") == 0
