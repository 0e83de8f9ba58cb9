"""`tsn/hub/client.py`: which failures are tried again, and after how long; the rest is in `test_release.py`."""

import time
from email.utils import formatdate

import pytest
from huggingface_hub import HfApi

from tests.hub.hub_server import Fault, Hub
from tsn.hub import client
from tsn.hub.client import HubError, ask


@pytest.fixture
def api(tmp_path, monkeypatch):
    """Of a Hub with a repository; waits are noted and not waited for."""
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        hub.store.create("org/tsn", private=False)
        api = HfApi(endpoint=hub.url, token="writer-token")
        api.hub, api.waits = hub, []
        monkeypatch.setattr(client.time, "sleep", api.waits.append)
        yield api


@pytest.mark.parametrize(
    "status, headers, waits",
    [
        (503, {"Retry-After": "7"}, [7]),
        (429, {"Retry-After": " 2 "}, [2]),
        (429, {"RateLimit": '"api";r=0;t=55'}, [55]),
        (429, {"RateLimit": '"api";r=9;t=55'}, [0.5]),
        (500, {}, [0.5]),
        (502, {"Retry-After": "soon"}, [0.5]),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, [0]),
    ],
)
def test_the_hub_says_how_long_to_wait(api, status, headers, waits):
    api.hub.faults = [Fault("GET", "/refs", status=status, headers=headers)]
    assert [ref.name for ref in ask(api.list_repo_refs, repo_id="org/tsn").branches] == ["main"]
    assert api.waits == waits


def test_a_date_is_waited_for(api):
    api.hub.faults = [Fault("GET", "/refs", status=503, headers={"Retry-After": formatdate(time.time() + 60)})]
    ask(api.list_repo_refs, repo_id="org/tsn")
    assert 50 < api.waits[0] <= 60


def test_waits_grow_and_end(api):
    api.hub.faults = [Fault("GET", "/refs", do="drop", times=99)]
    with pytest.raises(HubError, match="cannot be reached or does not answer"):
        ask(api.list_repo_refs, repo_id="org/tsn")
    assert api.waits == [0.5, 1, 2, 4, 8]


@pytest.mark.parametrize(
    "fault, words",
    [
        (Fault("GET", "/refs", status=429, headers={"Retry-After": "900"}), "429 repeatedly"),
        (Fault("GET", "/refs", status=400), "the Hub refused"),
        (Fault("GET", "/refs", status=404), "org/tsn or this revision"),
    ],
)
def test_some_failures_are_not_tried_again(api, fault, words):
    api.hub.faults = [fault]
    with pytest.raises(HubError, match=words):
        ask(api.list_repo_refs, repo_id="org/tsn")
    assert not api.waits
