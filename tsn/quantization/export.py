"""Exports a TSN model to ONNX and quantizes it to int8, with Optimum or, where there is none, without it."""

import contextlib
import inspect
import logging
import platform
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

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
    with _quiet():
        way.export_graph(model.eval(), path, dict.fromkeys(names, axes), outputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, length in ((1, 1), (1, 7), (3, 16), (2, min(33, model.config.max_tokens or 33))):
        ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)  # (batch, tokens)
        mask = torch.ones_like(ids)
        mask[-1, (length + 1) // 2 :] = 0  # padding
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        with torch.inference_mode():
            expected = model(**feed)
        logits = session.run(OUTPUTS, {i.name: feed[i.name].numpy() for i in session.get_inputs()})
        for name, values in zip(OUTPUTS, logits):
            reference = expected[name].numpy()
            if name != "sentiment_logits":
                values, reference = values[mask.bool().numpy()], reference[mask.bool().numpy()]  # (tokens, tags)
            worst = max(worst, float(np.abs(values - reference).max() / max(np.abs(reference).max(), 1.0)))
    if not worst <= TOLERANCE:
        raise ValueError(f"the ONNX graph differs from torch by {worst:.1e} of the largest logit")
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


def activation_ranges(path, chunks):
    """Smallest and largest input value of each node over some chunks, from which static quantization takes its scales.

    Args:
        path: The fp32 `.onnx` file.
        chunks: Model inputs of each chunk, dicts of `(tokens,)` lists.
    """
    # The graph's inputs: the tokenizer may return more.
    names = [value.name for value in onnx.load(path).graph.input]
    feeds = [{name: chunk[name] for name in names} for chunk in chunks]
    with _quiet():
        return way.activation_ranges(path, feeds, _WEIGHT_OPERATORS)


def quantize_onnx(path, folder, preset, keep=(), ranges=None):
    """Quantizes a graph to int8 per channel.

    Args:
        path: The fp32 `.onnx` file.
        folder: Folder for `model_quantized.onnx` and `ort_config.json`.
        preset: One of `PRESETS`.
        keep: Names of nodes to leave in fp32.
        ranges: Result of `activation_ranges`, for static scales of activations; with None the scales are computed in
            every run (dynamic).

    Returns:
        Path: the quantized file.
    """
    graph = onnx.load(path).graph
    wanted = set(_weight_nodes(graph)).difference(keep)
    excluded = [node.name for node in graph.node if node.op_type in _WEIGHT_OPERATORS and node.name not in wanted]
    with _quiet():
        way.quantize_graph(path, folder, preset, _WEIGHT_OPERATORS, excluded, ranges)
    return Path(folder) / f"{Path(path).stem}_quantized.onnx"


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
def _quiet():
    """Hides the exporter's warnings about tracing and about files that a TSN checkpoint does not have."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
