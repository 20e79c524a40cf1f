"""What `consilium apply` says of adapters that are not as the configuration says."""

from consilium.cli import apply_adapters
from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError

HERE = Endpoint("http://127.0.0.1:1/v1", "")


def told(monkeypatch, *answers, limit_s=60.0):
    """Return what is said where the room answers so, one after the other."""
    left = list(answers)

    def document(_endpoint, _path):
        answer = left.pop(0)
        if isinstance(answer, ConsiliumError):
            raise answer
        return answer

    monkeypatch.setattr(apply_adapters, "document", document)
    monkeypatch.setattr(apply_adapters, "POLL_S", 0.0)
    return apply_adapters.left_out(HERE, "new", limit_s=limit_s)


def page(configuration, **why):
    rows = [{"name": name, "current": "", "not_taken_in": text} for name, text in why.items()]
    return {"configuration": configuration, "adapters": rows}


def test_it_waits_until_the_room_has_worked_through_it(monkeypatch):
    starting = ConsiliumError("upstream_down", name="the room", retry_after_s=1.0)
    answers = (page("old", a="as it was"), starting, page("new", a="core of mine", b=""))
    (line,) = told(monkeypatch, *answers)
    assert line.startswith("adapters.a is not as the configuration says")
    assert line.endswith("core of mine")
    assert told(monkeypatch, page("new", a="")) == ()


def test_it_says_so_where_the_room_does_not(monkeypatch):
    (line,) = told(monkeypatch, page("old"), limit_s=0.0)
    assert "still at work" in line
    (line,) = told(monkeypatch, ConsiliumError("forbidden", reason="no scope"))
    assert "no scope" in line
    assert told(monkeypatch, {"adapters": []}) == (), "an older room does not say"
