"""Peak memory and model files of a system, each in a process of its own.

    python -m bench.memory SYSTEM FOLDER < texts.json

Prints the peak of the resident memory in bytes after SYSTEM (see `SYSTEMS`) has gone through the texts.
"""

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from tsn.paths import ROOT

# Of each system: its name, its engine, and whether it takes pieces of texts rather than texts.
SYSTEMS = {
    "tsn-torch": ("TSN", "torch", False),
    "tsn-onnx": ("TSN", "onnx", False),
    "tsn-int8": ("TSN", "int8", False),
    "three-pipelines": ("three pipelines", "torch", True),
    "usual-script": ("usual script", "int8", True),
}


def measure_all(checkpoint, three_folder, texts, pieces):
    """Each system's peak memory and files.

    Args:
        checkpoint: Folder with `onnx/`.
        three_folder: What `three_pipelines.save_models` wrote.
        texts, pieces: Lists of strings: what systems get, and what those that take short texts alone get.

    Returns:
        List of dict: `system`, `engine`, `peak_bytes`, `disk_bytes`.
    """

    def of(name):
        system, engine, takes_pieces = SYSTEMS[name]
        folder = three_folder if system == "three pipelines" else checkpoint
        peak = measure(name, folder, pieces if takes_pieces else texts)
        return {"system": system, "engine": engine, "peak_bytes": peak, "disk_bytes": disk_bytes(name, folder)}

    with ThreadPoolExecutor(2) as threads:  # memory is no matter of time: two processes at once
        return list(tqdm(threads.map(of, SYSTEMS), total=len(SYSTEMS), desc="memory", unit="system"))


def measure(name, folder, texts):
    """Peak resident memory of a new process, in bytes.

    Args:
        name: One of `SYSTEMS`.
        folder: What the system loads: the checkpoint, or what `three_pipelines.save_models` wrote.
        texts: List of strings, or of pieces.
    """
    command = [sys.executable, "-m", "bench.memory", name, str(Path(folder).resolve())]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def disk_bytes(name, folder):
    """Bytes of the model files that a system loads from its folder; tokenizers and configurations left out."""
    patterns = {"tsn-torch": "model.safetensors", "tsn-onnx": "onnx/model.onnx*", "three-pipelines": "*/*.safetensors"}
    return sum(path.stat().st_size for path in Path(folder).glob(patterns.get(name, "onnx/model_quantized.onnx*")))


def peak_bytes():
    """The most memory that this process has had resident so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss on from the parent, which may have held more
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def load(name, folder):
    """A system as a function of a list of texts."""
    # Each imports what it needs alone, as imports are a good part of the memory.
    if name == "usual-script":
        from bench.usual_script import UsualScript

        script = UsualScript(folder)
        return lambda texts: [script(text) for text in texts]
    if name == "three-pipelines":
        from bench.three_pipelines import ThreePipelines

        return ThreePipelines(folder)
    import torch

    from bench.systems import BATCH_SIZE, load_tsn

    pipe = load_tsn(folder, SYSTEMS[name][1], torch.get_num_threads())
    return lambda texts: pipe(texts, batch_size=BATCH_SIZE)


if __name__ == "__main__":
    load(*sys.argv[1:])(json.load(sys.stdin))
    print(peak_bytes())
