"""ONNX graphs by Optimum's exporter and int8 by its `ORTQuantizer`: the way on transformers 4.57."""

from pathlib import Path

import optimum.version
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from optimum.utils import NormalizedTextConfig
from transformers import AutoConfig, PretrainedConfig

from configuration_tsn import TSNConfig

NAME = f"optimum {optimum.version.__version__}"


class TSNOnnxConfig(TextEncoderOnnxConfig):
    """Names the inputs and outputs of the graph; batch size and length stay dynamic."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    def __init__(self, config, inputs, outputs):
        super().__init__(config, task="feature-extraction")
        self._inputs, self._outputs = inputs, outputs

    @property
    def inputs(self):
        return self._inputs

    @property
    def outputs(self):
        return self._outputs


def export_graph(model, path, inputs, outputs):
    """Writes a model as an ONNX graph.

    Args:
        model: A `TSNModel` in fp32.
        path: The `.onnx` file.
        inputs, outputs: Names of the graph's inputs and outputs, each with its dynamic axes: `{number: name}`.
    """
    export(model, TSNOnnxConfig(model.config, inputs, outputs), Path(path))


def quantize_graph(path, folder, preset, operators, excluded):
    """Quantizes a graph to dynamic int8, per channel; writes `model_quantized.onnx` and `ort_config.json`.

    Args:
        path: The fp32 `.onnx` file.
        folder: Folder to write to.
        preset: Name of a method of `AutoQuantizationConfig`.
        operators: Types of the operators to quantize.
        excluded: Names of nodes to leave in fp32.
    """
    # The quantizer would ask whether to run the checkpoint's code.
    AutoConfig.register(TSNConfig.model_type, TSNConfig, exist_ok=True)
    options = getattr(AutoQuantizationConfig, preset)(
        is_static=False, per_channel=True, nodes_to_exclude=excluded, operators_to_quantize=operators
    )
    folder = Path(folder)
    ORTQuantizer(Path(path), PretrainedConfig()).quantize(options, folder)
    (folder / "config.json").unlink()  # an empty one that Optimum writes; the checkpoint has its own
