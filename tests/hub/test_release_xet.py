"""`release.py` on a Hub that stores files by Xet, and on one that says so and has none."""

import pytest

from tests.hub.hub_server import Hub
from tests.hub.release_workshop import EXPECTED, release, tags

pytestmark = pytest.mark.slow
LARGE = ("model.safetensors", "onnx/model.onnx", "onnx/model_quantized.onnx")


def requests(hub, method, part):
    return [path for verb, path in hub.requests if verb == method and part in path]


@pytest.mark.parametrize("fails", [False, True])
def test_large_files_go_by_xet_where_there_is_xet(clone, tmp_path, fails):
    """And come back by it: the verification downloads as readers do."""
    with Hub(tmp_path / "hub", xet=True) as hub:
        if fails:
            hub.xet.address = hub.url
        done = release(clone, hub, stub="answers")
        assert done.returncode == 0, done.stderr
        files = hub.store.load("org/tsn")["commits"][tags(hub)["v1.0.0"]]["files"]
        assert files.keys() == EXPECTED
        assert all(files[name]["lfs"] and hub.store.get(files[name]["sha256"]) for name in LARGE)
        assert requests(hub, "GET", "/xet-write-token/")
        assert bool(requests(hub, "PUT", "/lfs/upload/")) == fails == ("again by Git LFS" in done.stderr)
        assert bool(requests(hub, "GET", "/xet-read-token/")) == (not fails)
        assert set(hub.xet.files()) >= (set() if fails else {files[name]["sha256"] for name in LARGE})
