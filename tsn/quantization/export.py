"""Exports a TSN model to ONNX and quantizes it to int8, with Optimum or, where there is none, without it."""

import contextlib
import inspect
import logging
import platform
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch

from onnx_tsn import TSNOnnxModel, open_session
from tsn.heads import OUTPUTS
from tsn.machine import read_processor

try:
    from tsn.quantization import with_optimum as way
except ImportError:  # optimum-onnx needs transformers < 4.58
    from tsn.quantization import with_torch as way  # type: ignore[no-redef]

PRESETS = ("avx2", "avx512_vnni", "arm64")
TOLERANCE = 1e-4
"""Largest allowed difference between a logit of the ONNX graph and torch's, as a share of the largest logit."""

_WEIGHT_OPERATORS = ["MatMul", "Gemm", "Gather"]


def export_onnx(model, path):
    """Writes a model as an ONNX graph and checks it against torch.

    Args:
        model: A `TSNModel` in fp32.
        path: The `.onnx` file.

    Returns:
        float: the largest difference of a logit from torch's, as a share of the largest logit.

    Raises:
        ValueError: the difference is above `TOLERANCE`.
    """
    parameters = inspect.signature(model.backbone.forward).parameters
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in parameters]
    axes = {0: "batch_size", 1: "sequence_length"}  # those that stay dynamic
    outputs = {name: axes if name != "sentiment_logits" else {0: "batch_size"} for name in OUTPUTS}
    with quiet():
        way.export_graph(model.eval(), path, dict.fromkeys(names, axes), outputs)
    return check_against_torch(model, TSNOnnxModel(open_session(path, 1), model.config), "ONNX")


def check_against_torch(model, graph, name):
    """Compares a graph with the model that it was drawn from, on random inputs.

    Args:
        model: A `TSNModel` in fp32.
        graph: A `TSNGraphModel`.
        name: What to call it in the error.

    Returns:
        float: the largest difference of a logit from torch's, as a share of the largest logit.

    Raises:
        ValueError: the difference is above `TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, length in ((1, 1), (1, 7), (3, 16), (2, min(33, model.config.max_tokens or 33))):
        ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)  # (batch, tokens)
        mask = torch.ones_like(ids)
        mask[-1, (length + 1) // 2 :] = 0  # padding
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        with torch.inference_mode():
            expected, logits = model(**feed), graph(**feed)
        for output in OUTPUTS:
            values, reference = logits[output], expected[output]
            if output != "sentiment_logits":
                values, reference = values[mask.bool()], reference[mask.bool()]  # (tokens, tags)
            worst = max(worst, float((values - reference).abs().max() / reference.abs().max().clamp(min=1)))
    if not worst <= TOLERANCE:
        raise ValueError(f"the {name} graph differs from torch by {worst:.1e} of the largest logit")
    return worst


def weight_nodes(path):
    """Names of the nodes that multiply by a weight or look one up, which are those to quantize.

    The attention's own products (queries by keys, probabilities by values) have no weight. Quantizing them, which is
    the default of the quantizers, was no faster.
    """
    return _weight_nodes(onnx.load(path).graph)


def _weight_nodes(graph):
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        node.name for node in graph.node if node.op_type in _WEIGHT_OPERATORS and weights.intersection(node.input[:2])
    ]


def quantize_onnx(path, folder, preset, keep=()):
    """Quantizes a graph to int8 per channel; the scales of activations are computed in every run (dynamic).

    Args:
        path: The fp32 `.onnx` file.
        folder: Folder for `model_quantized.onnx` and `ort_config.json`.
        preset: One of `PRESETS`.
        keep: Names of nodes to leave in fp32.

    Returns:
        Path: the quantized file.
    """
    graph = onnx.load(path).graph
    wanted = set(_weight_nodes(graph)).difference(keep)
    excluded = [node.name for node in graph.node if node.op_type in _WEIGHT_OPERATORS and node.name not in wanted]
    with quiet():
        way.quantize_graph(path, folder, preset, _WEIGHT_OPERATORS, excluded)
    return Path(folder) / f"{Path(path).stem}_quantized.onnx"


class OnnxBackend:
    """The model in ONNX Runtime: what `tsn/quantization/run.py` asks of a backend.

    Args:
        model: A `TSNModel` in fp32; its graph is written and compared with torch.
        folder: Folder to write to, named `FOLDER`.
        preset: One of `PRESETS`.

    Raises:
        ValueError: the graph differs from torch; `export_difference` is by how much, else.
    """

    FOLDER, OPTION, FP32, INT8 = "onnx", "onnx_file", "model.onnx", "model_quantized.onnx"

    def __init__(self, model, folder, preset):
        self.config, self._folder, self._preset = model.config, Path(folder), preset
        self.export_difference = export_onnx(model, self._folder / self.FP32)

    def about(self):
        """What the report says of the way it was made."""
        versions = {"onnxruntime": onnxruntime.__version__}
        return {"way": way.NAME, "preset": self._preset, "mode": "dynamic", "versions": versions}

    def files(self, name):
        """Paths of the files that make up a model."""
        return [self._folder / name]

    def load(self, name):
        """A `TSNGraphModel`."""
        return TSNOnnxModel.from_pretrained(str(self._folder.parent), self.config, name)

    def layers(self):
        """Names of the layers that are quantized."""
        return weight_nodes(self._folder / self.FP32)

    def quantize(self, keep=()):
        """Writes the int8 model, with some layers left in fp32."""
        quantize_onnx(self._folder / self.FP32, self._folder, self._preset, keep)

    def quantize_only(self, layer):
        """Writes the int8 model with a single layer quantized."""
        self.quantize([other for other in self.layers() if other != layer])


def processor():
    """`{"name", "cores", "features"}` of this machine's processor; the features are those that make int8 fast."""
    name, flags = read_processor()
    relevant = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    return {"name": name, "cores": torch.get_num_threads(), "features": [flag for flag in relevant if flag in flags]}


def auto_preset():
    """The preset for this processor.

    On x86 that is `avx512_vnni` with its signed weights, which were faster than the unsigned ones of `avx2` both on
    processors with VNNI and on those with only AVX2.
    """
    return "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "avx512_vnni"


@contextlib.contextmanager
def quiet():
    """Hides the exporter's warnings about tracing and about files that a TSN checkpoint does not have."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
