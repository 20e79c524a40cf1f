import pytest

from consilium.gateway.http_visit import HttpRoute, RouteTable
from consilium.kernel.errors import ConsiliumError


async def nothing(_visit):
    return


TABLE = RouteTable(
    [
        HttpRoute("/v1/things", {"POST": "generate"}, nothing),
        HttpRoute("/v1/things/", {"GET": "read", "DELETE": "admin"}, nothing),
        HttpRoute("/v1/things/parts/", {"PUT": "admin"}, nothing),
        HttpRoute("/health", {"GET": ""}, nothing),
    ]
)


@pytest.mark.parametrize(
    ("path", "method", "row"),
    [
        ("/v1/things", "POST", "/v1/things"),
        ("/v1/things/7", "GET", "/v1/things/"),
        ("/v1/things/7/8/9", "DELETE", "/v1/things/"),
        ("/v1/things/parts/1", "PUT", "/v1/things/parts/"),
        ("/health", "GET", "/health"),
    ],
)
def test_a_path_finds_its_own_row_or_the_nearest_above(path, method, row):
    assert TABLE.find(path, method).path == row


@pytest.mark.parametrize(
    ("path", "nearest"),
    [("/v1/thing", "/v1/things"), ("/healt", "/health"), ("/", "/v1/chat/completions")],
)
def test_a_path_without_a_row_is_told_the_nearest(path, nearest):
    with pytest.raises(ConsiliumError) as caught:
        TABLE.find(path, "GET")
    assert (caught.value.code, caught.value.fields["nearest"]) == ("route_unknown", nearest)


def test_another_method_is_told_which_there_are():
    with pytest.raises(ConsiliumError) as caught:
        TABLE.find("/v1/things/7", "PUT")
    assert caught.value.code == "method_not_allowed"
    assert "GET and DELETE" in caught.value.public()


def test_one_path_has_one_row():
    with pytest.raises(ConsiliumError, match="two routes"):
        RouteTable([HttpRoute("/a", {}, nothing), HttpRoute("/a", {}, nothing)])
