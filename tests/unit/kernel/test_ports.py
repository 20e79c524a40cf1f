import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.kernel import ports
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import allot, claim, free_port, is_free, is_open


def test_every_row_gets_its_own_port_below_those_of_outgoing_connections():
    given_ports = ports.allot({}, usable=lambda _: True)
    assert list(given_ports) == [row.name for row in ports.TABLE]
    assert given_ports["http"] == 8000
    used = [
        number
        for row in ports.TABLE
        for number in range(given_ports[row.name], given_ports[row.name] + row.count)
    ]
    assert len(used) == len(set(used))
    assert all(ports.LOWEST <= number <= ports.HIGHEST for number in used if number != 8000)


@given(st.sets(st.integers(ports.LOWEST, ports.HIGHEST), max_size=2000))
def test_what_is_taken_is_never_given(taken):
    given_ports = ports.allot({}, usable=lambda port: port not in taken and port != 8000)
    used = {
        number
        for row in ports.TABLE
        for number in range(given_ports[row.name], given_ports[row.name] + row.count)
    }
    assert not used & (taken | {8000})


def test_a_named_port_is_kept_and_rows_can_be_left_out():
    given_ports = ports.allot(
        {"grpc": 50051, "http": None, "redis": 6379}, skip=["redis"], usable=lambda _: True
    )
    assert given_ports["grpc"] == 50051
    assert "redis" not in given_ports


def test_a_named_port_that_is_taken_is_refused_with_its_name_and_owner():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert not ports.is_free(port)
        with pytest.raises(ConsiliumError) as told:
            ports.allot({"http": port})
    assert told.value.row.exit_code == 67
    assert f"Port {port} (http) is taken by " in told.value.public()
    assert ports.is_free(port)


def test_one_number_for_two_rows_is_refused():
    with pytest.raises(ConsiliumError, match="is taken by http of this cluster"):
        ports.allot({"http": 9999, "grpc": 9999}, usable=lambda _: True)


def test_a_name_that_is_no_row_is_a_mistake_of_the_caller():
    with pytest.raises(KeyError):
        ports.allot({"htpp": 9999}, usable=lambda _: True)


def test_a_machine_without_a_free_port_is_told():
    with pytest.raises(ConsiliumError) as told:
        ports.free_port(usable=lambda _: False)
    assert told.value.code == "port_taken"


def test_a_port_that_another_start_was_promised_is_not_given():
    """Between the choice of a port and the program that listens on it lie seconds."""
    port = free_port()
    with claim(port):
        assert is_free(port)
        assert not is_open(port)
        with pytest.raises(OSError, match="in use"):
            claim(port)
        with pytest.raises(ConsiliumError) as told:
            allot({"http": port})
        assert told.value.code == "port_taken"
    assert is_open(port)
