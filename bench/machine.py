"""The machine and the versions that a run is of; nothing that would tell whose machine it is."""

import os
import platform
from importlib.metadata import version

from tsn.machine import read_processor

FEATURES = ("avx2", "avx_vnni", "avx512_vnni")  # what the speed of int8 depends on
LIBRARIES = ("torch", "transformers", "onnxruntime")


def describe_machine():
    """What the figures depend on.

    Returns:
        dict: `cpu` (name), `cores`, `features` (of `FEATURES`, whether it has each; empty if unknown), `os`, and
        `load`, the load average of the last minute: 0 where nothing else runs.
    """
    name, flags = read_processor()
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "features": {feature: feature in flags for feature in FEATURES} if flags else {},
        "os": f"{system}, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
    }


def versions():
    """dict of Python and `LIBRARIES` to their versions."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
