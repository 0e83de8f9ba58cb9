"""Which checkpoint a training resumes from."""

import json
from pathlib import Path


def find_checkpoint(wanted: str | None, output_dir: str) -> str | None:
    """The checkpoint to resume from, or None to begin anew.

    Args:
        wanted: A checkpoint's folder, or `"last"` for the newest complete one in `output_dir`.

    Raises:
        ValueError: no such checkpoint, or it was not written to its end.
    """
    if wanted != "last":
        if wanted is not None and not is_complete(Path(wanted)):
            raise ValueError(f"--resume_from_checkpoint: {wanted} is not a complete checkpoint")
        return wanted
    complete = {}
    for path in Path(output_dir).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdecimal() and is_complete(path):
            complete[int(step)] = path
    if not complete:
        raise ValueError(f"--resume_from_checkpoint last: no checkpoint in {output_dir} is complete")
    return str(complete[max(complete)])


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the trainer writes its state last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any(checkpoint.glob("optimizer*"))
