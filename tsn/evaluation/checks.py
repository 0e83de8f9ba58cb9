"""What would stop an evaluation at its end, looked for before it begins."""

import tempfile
from pathlib import Path

import torch


def check_writable(folder, names):
    """Makes the folder, and finds out whether the files can be written into it. Files that exist keep their content.

    Raises:
        OSError: the folder or a file in it cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in (folder / name for name in names):
            if path.exists():
                path.open("r+b").close()
    except OSError as error:
        raise OSError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def check_device(name):
    """Raises `ValueError` if no tensor can be put on the device and read back."""
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown name, no such card, no CUDA build
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"--device {name} cannot be used: {reason}") from error
