"""Loads a pipeline for this machine's processors: what `score.py` and `serve.py` run in each of their processes."""

import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

# transformers imports these where they are installed, for tasks that are not ours: a good part of the time to the
# first answer and of the memory of a process.
_UNUSED = ("sklearn", "scipy")
# What quantize.py writes for each engine, into its folder; `"auto"` takes the first.
_INT8 = {"openvino": "model_quantized.xml", "onnx": "model_quantized.onnx"}


def load(model, onnx_file, threads, device, openvino_file=None, engines=tuple(_INT8), **parameters):
    """Loads a `TSNPipeline`.

    Args:
        model: Folder or Hub id.
        onnx_file: A file in the model's `onnx` folder; `"none"`: PyTorch; `"auto"`: see [`chosen_files`].
        threads: Number of CPU threads.
        device: Such as `"cpu"` or `"cuda:0"`.
        openvino_file: A file in the model's `openvino` folder, instead of `onnx_file`.
        engines: Those that `"auto"` may choose, the first one first.
        parameters: Of the pipeline, such as `threshold`.
    """
    with _without_unused_packages():
        import torch
        from transformers import AutoTokenizer, logging

        from modeling_tsn import TSNModel
        from pipeline_tsn import TSNPipeline

    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    options = {}
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: this machine has no such device")
    onnx_file, openvino_file = chosen_files(model, onnx_file, device, openvino_file, engines)
    if openvino_file:
        options = {"openvino_file": openvino_file, "num_threads": threads}
    elif onnx_file != "none":
        options = {"onnx_file": onnx_file, "num_threads": threads}
    loaded = TSNModel.from_pretrained(model, **options)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return TSNPipeline(model=loaded.eval(), tokenizer=tokenizer, device=device, **parameters)


def chosen_files(model, onnx_file, device, openvino_file=None, engines=tuple(_INT8)):
    """What `"auto"` stands for: on a CPU, the int8 file of the first engine that the model has one for, else PyTorch.

    OpenVINO, if it is installed, is the faster engine where many texts of one length go together; ONNX Runtime is for
    one text or few of different lengths.

    Args: as of [`load`].

    Returns:
        tuple: `onnx_file` and `openvino_file` without `"auto"`.
    """
    if openvino_file or onnx_file != "auto":
        return onnx_file, openvino_file
    for engine in engines if device == "cpu" else ():
        name = _INT8[engine]
        if engine == "openvino" and _installed("openvino") and _has(model, engine, name):
            return "none", name
        if engine == "onnx" and _has(model, engine, name):
            return name, None
    return "none", None


@contextmanager
def _without_unused_packages():
    """transformers, if it is first imported in here, takes the packages in `_UNUSED` for not installed."""
    hidden = [] if "transformers" in sys.modules else [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None: Python finds no such module
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _installed(package):
    found = find_spec(package)
    return found is not None and found.origin is not None  # not a mere folder of that name, which quantize.py writes


def _has(model, folder, name):
    if Path(model).is_dir():  # without transformers, which score.py asks before it is imported as `load` does
        return Path(model, folder, name).is_file()
    from transformers.utils import cached_file

    try:
        return bool(cached_file(model, name, subfolder=folder))
    except OSError:
        return False
