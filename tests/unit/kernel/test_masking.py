"""Addresses as they may be shown."""

import pytest

from consilium.kernel.masking import shown_address, without_userinfo


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example.org/v1", "https://api.example.org/v1"),
        ("https://user:pass@api.example.org:8443/v1?key=abc", "https://api.example.org:8443/v1"),
        ("redis://:secret@127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("127.0.0.1:6379", "127.0.0.1:6379"),
        ("rediss://a%40b:c@host/0", "rediss://host/0"),
        ("http://u:pw@h//v1?key=1", "http://h//v1"),
        ("http://u:secret@h/v1?next=http://z", "http://h/v1"),
        ("redis://:pa//ss@h:6379/0#x", "redis://h:6379/0"),
        ("redis://:p/w@h", "redis://h"),
        ("redis://:p?w@h", "redis://h"),
    ],
)
def test_an_address_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert shown_address(url) == shown


def test_a_text_keeps_everything_but_who_logs_in() -> None:
    assert (
        without_userinfo("to redis://:x@h:1/0 and http://y/z")
        == "to redis://********@h:1/0 and http://y/z"
    )
