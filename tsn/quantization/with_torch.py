"""ONNX graphs by torch's exporter and int8 by ONNX Runtime's quantizer: the way on transformers 5.

Optimum does not go with it. Of the exporters that do, TorchScript's gave Optimum's graph, node by node with a weight.
transformers' `OnnxExporter` and torch's with `dynamo=True` are as exact, and the way on once torch drops TorchScript.
They took several times as long and need another package, and the former's graph ran a short text 8 % slower.
"""

import json
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

NAME = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
_OPSET = 18
_WEIGHTS = {"avx2": QuantType.QUInt8, "avx512_vnni": QuantType.QInt8, "arm64": QuantType.QInt8}
_SCALES = {"WeightSymmetric": True, "ActivationSymmetric": False}


class _Tensors(torch.nn.Module):
    """A model with tensors in and out, which is what the exporter can trace."""

    def __init__(self, model, inputs, outputs):
        super().__init__()
        self.model, self._inputs, self._outputs = model, inputs, outputs

    def forward(self, *tensors):
        answer = self.model(**dict(zip(self._inputs, tensors)))
        return tuple(answer[name] for name in self._outputs)


def export_graph(model, path, inputs, outputs):
    """As `with_optimum.export_graph`."""
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in inputs)  # (batch, tokens)
    torch.onnx.export(
        _Tensors(model, list(inputs), list(outputs)).eval(),
        example,
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={**inputs, **outputs},
        opset_version=_OPSET,
        dynamo=False,
    )


def quantize_graph(path, folder, preset, operators, excluded):
    """As `with_optimum.quantize_graph`."""
    target = Path(folder) / f"{Path(path).stem}_quantized.onnx"
    kind = _WEIGHTS[preset]
    quantize_dynamic(
        Path(path),
        target,
        op_types_to_quantize=operators,
        per_channel=True,
        weight_type=kind,
        nodes_to_exclude=excluded,
        extra_options=dict(_SCALES),
    )
    options = {
        "is_static": False,
        "format": "QOperator",
        "activations_dtype": "QUInt8",
        "activations_symmetric": False,
        "weights_dtype": kind.name,
        "weights_symmetric": True,
        "per_channel": True,
        "nodes_to_exclude": sorted(excluded),
        "operators_to_quantize": list(operators),
    }
    record = json.dumps({"quantization": options}, indent=2) + "\n"
    (Path(folder) / "ort_config.json").write_text(record, encoding="utf-8")
