"""Which web pages may call."""

import pytest

from consilium.kernel.origins import is_origin, origins_of


def test_on_loopback_pages_of_this_machine_may_call():
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        origins = origins_of(None, host)
        assert origins.allow("http://localhost:3000")
        assert origins.allow("https://127.0.0.1:8443")
        assert origins.allow("http://[::1]")
        assert not origins.allow("https://example.org")
        assert not origins.allow("http://localhost:3000.example.org")
        assert not origins.allow("null")


def test_elsewhere_none_may_unless_it_is_listed():
    assert not origins_of(None, "0.0.0.0").allow("http://localhost:3000")
    listed = origins_of(["https://a.example", "null"], "0.0.0.0")
    assert [listed.allow(one) for one in ("https://a.example", "null")] == [True, True]
    assert not listed.allow("https://aXexample")
    assert not listed.allow("https://a.example:444")
    assert not origins_of([], "127.0.0.1").allow("http://localhost")


def test_a_star_lets_every_page_call():
    assert origins_of(["https://a.example", "*"], "0.0.0.0").allow("https://b.example")


@pytest.mark.parametrize(
    "text",
    ["*", "null", "https://a.example", "http://[::1]:80", "app://obsidian.md", "tauri://localhost"],
)
def test_what_an_origin_is(text):
    assert is_origin(text)


@pytest.mark.parametrize(
    "text", ["", "a.example", "https://a.example/", "https://a b", "https://a'b", "https://*.a\n"]
)
def test_what_an_origin_is_not(text):
    assert not is_origin(text)
