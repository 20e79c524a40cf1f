"""A body whose caller leaves: what has come is kept, also the last few bytes."""

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.uploads import Uploads

pytestmark = pytest.mark.asyncio


class Account:
    taken = 0

    def give(self, _count): ...

    def take(self, count):
        self.taken += count

    def measure(self): ...


async def test_the_last_small_piece_is_kept_when_the_caller_leaves(tmp_path):
    messages = [
        {"type": "http.request", "body": b"four", "more_body": True},
        {"type": "http.disconnect"},
    ]
    account = Account()

    async def receive():
        return messages.pop(0)

    with pytest.raises(ConsiliumError) as caught:
        await Uploads().receive(tmp_path / "file", 0, receive, limit=100, account=account)
    assert caught.value.code == "client_gone"
    assert (tmp_path / "file").read_bytes() == b"four"
    assert account.taken == 4
