"""Where things lie in the repository, and what tells one file from another."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository, which is also the folder of the shipped model."""
RESULTS = Path("results")
"""The folder of a checkpoint that holds what was measured of it."""
EVAL_RESULTS = RESULTS / "eval_results.json"
INT8_RESULTS = RESULTS / "int8" / "eval_results.json"
OPENVINO_RESULTS = RESULTS / "openvino" / "eval_results.json"


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
