"""The machine and the versions that a run is of; nothing that would tell whose machine it is."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

FEATURES = ("avx2", "avx_vnni", "avx512_vnni")  # what the speed of int8 depends on
LIBRARIES = ("torch", "transformers", "onnxruntime")


def describe_machine():
    """What the figures depend on.

    Returns:
        dict: `cpu` (name), `cores`, `features` (of `FEATURES`, whether it has each; empty if unknown), `os`, and
        `load`, the load average of the last minute: 0 where nothing else runs.
    """
    path = Path("/proc/cpuinfo")
    cpuinfo = parse_cpuinfo(path.read_text(encoding="utf-8") if path.exists() else "")
    flags = cpuinfo.get("flags", cpuinfo.get("Features", "")).split()
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return {
        "cpu": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "features": {name: name in flags for name in FEATURES} if flags else {},
        "os": f"{system}, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
    }


def parse_cpuinfo(text):
    """The fields of the first processor of Linux's `/proc/cpuinfo`."""
    lines = text.split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def versions():
    """dict of Python and `LIBRARIES` to their versions."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
