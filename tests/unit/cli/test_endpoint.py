"""--endpoint: an address, or a sentence that says how one is written."""

import argparse

import pytest

from consilium.cli.app import main
from consilium.cli.endpoint import endpoint_of


@pytest.mark.parametrize(
    "url", ["nonsense", "localhost:8000", "ftp://host/v1", "http://", "http://[::1"]
)
def test_what_is_no_address_is_told_before_anything_is_asked(url, capsys):
    assert main(["top", "--endpoint", url]) == 1
    assert (
        f"error: --endpoint: {url!r} is no address. Write it as http://" in capsys.readouterr().err
    )


@pytest.mark.parametrize("url", ["http://host:8000", "http://host:8000/", "http://host:8000/v1/"])
def test_v1_is_added_where_it_was_left_out(url):
    assert endpoint_of(argparse.Namespace(endpoint=url, key="k")).openai == "http://host:8000/v1"
