"""The model in OpenVINO, quantized to int8 by NNCF: fixed scales of activations, with SmoothQuant.

SmoothQuant moves the outliers of activations into the weights, so that scales measured once on sample texts fit. Such
scales need no pass over a tensor when it runs, and are the same for every batch.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np

from openvino_tsn import TSNOpenVinoModel, openvino_core
from tsn.quantization.export import check_against_torch, export_onnx, quiet

_CORE = openvino_core()  # first: it keeps the packages below from reporting their use
import nncf  # noqa: E402
import openvino  # noqa: E402

_VERSIONS = {"nncf": nncf.__version__, "openvino": openvino.__version__.partition("-")[0]}
NAME = ", ".join(f"{name} {version}" for name, version in _VERSIONS.items())
_WEIGHT_OPERATORS = ("MatMul", "Gather")


class OpenVinoBackend:
    """As `export.OnnxBackend`.

    Args:
        model: A `TSNModel` in fp32.
        folder: Folder to write to.
        chunks: Model inputs of the texts to measure the scales on, dicts of `(tokens,)` lists.
    """

    FOLDER, OPTION, FP32, INT8 = "openvino", "openvino_file", "model.xml", "model_quantized.xml"

    def __init__(self, model, folder, chunks):
        self.config, self._folder, self._chunks = model.config, Path(folder), chunks
        fp32 = self._folder / self.FP32
        graph = fp32.with_suffix(".onnx")
        export_onnx(model, graph)
        openvino.save_model(openvino.convert_model(graph), fp32, compress_to_fp16=False)
        graph.unlink()
        self.export_difference = check_against_torch(model, self.load(self.FP32), "OpenVINO")
        self._one_by_one = None

    def about(self):
        return {"way": NAME, "mode": "static", "versions": dict(_VERSIONS)}

    def files(self, name):
        return [self._folder / name, (self._folder / name).with_suffix(".bin")]

    def load(self, name):
        return TSNOpenVinoModel.from_pretrained(str(self._folder.parent), self.config, name)

    def layers(self):
        return [node.get_friendly_name() for node in self._read().get_ordered_ops() if _has_weight(node)]

    def quantize(self, keep=()):
        self._save(self._quantized(keep))

    def quantize_only(self, layer):
        if self._one_by_one is None:
            # Quantization is simulated where a layer reads, which can be taken back. Corrected biases could not.
            options = {"disable_bias_correction": True, "backend_params": {"compress_weights": False}}
            self._one_by_one = self._quantized((), **options)
        model = self._one_by_one.clone()
        for node in model.get_ordered_ops():
            if node.get_type_name() == "FakeQuantize":
                for reader in node.output(0).get_target_inputs():
                    if reader.get_node().get_friendly_name() != layer:
                        reader.replace_source_output(node.input_value(0))
        self._save(model)

    def _read(self):
        return _CORE.read_model(self._folder / self.FP32)

    def _quantized(self, keep, **advanced):
        model = self._read()
        names = [port.any_name for port in model.inputs]  # the tokenizer may return more
        with quiet(), contextlib.redirect_stdout(sys.stderr):  # where progress goes
            return nncf.quantize(
                model,
                nncf.Dataset(self._chunks, lambda chunk: {name: np.array([chunk[name]]) for name in names}),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(self._chunks),
                # With the attention's own products left in fp32, the sentiment of texts was less accurate.
                ignored_scope=nncf.IgnoredScope(names=list(keep)),
                advanced_parameters=nncf.AdvancedQuantizationParameters(**advanced),
            )

    def _save(self, model):
        openvino.save_model(model, self._folder / self.INT8, compress_to_fp16=False)


def _has_weight(node):
    return node.get_type_name() in _WEIGHT_OPERATORS and any(
        value.get_node().get_type_name() == "Constant" and len(value.get_partial_shape()) == 2
        for value in node.input_values()
    )
