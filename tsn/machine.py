"""What figures depend on: the processor that measured them."""

import platform
from pathlib import Path


def read_processor():
    """Name of the processor and the set of its instruction-set flags, which is empty where Linux does not tell."""
    path = Path("/proc/cpuinfo")
    fields = parse_cpuinfo(path.read_text(encoding="utf-8") if path.exists() else "")
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set(fields.get("flags", fields.get("Features", "")).split())


def parse_cpuinfo(text):
    """The fields of the first processor of Linux's `/proc/cpuinfo`."""
    lines = text.split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
