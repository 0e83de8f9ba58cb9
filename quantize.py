"""Exports a TSN checkpoint to ONNX or OpenVINO, quantizes it to int8 and checks that it is still accurate.

    python quantize.py CHECKPOINT --output_dir out
    python quantize.py . --output_dir out --eval_file ../shared/data/validation.parquet --mixed_precision auto
    python quantize.py . --output_dir out --eval_file ../shared/data/validation.parquet --backend openvino

`out` becomes a complete Hub folder whose `onnx` or `openvino` folder holds the model in fp32 and int8 and
`quantization_report.json`. Load it with

    pipeline("topic-sentiment-ner", model="out", trust_remote_code=True,
             model_kwargs={"onnx_file": "model_quantized.onnx"})  # or {"openvino_file": "model_quantized.xml"}

With --eval_file, nothing is written if a head's main metric falls by more than --max_drop.
"""

import argparse
import sys

from tsn.quantization.export import PRESETS
from tsn.quantization.run import GateFailed, quantize


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("--backend", default="onnx", choices=["onnx", "openvino"], help="what runs it (default: onnx)")
    parser.add_argument("--output_dir", required=True, help="folder to write; may be the checkpoint's own")
    parser.add_argument(
        "--preset",
        default="auto",
        choices=["auto", *PRESETS],
        help="processor to quantize for (ONNX alone; default: this one)",
    )
    parser.add_argument("--eval_file", nargs="+", help="annotated data to measure fp32 and int8 on")
    parser.add_argument(
        "--max_drop",
        type=float,
        default=0.005,
        help="largest allowed drop of a head's main metric, absolute (default: 0.005)",
    )
    parser.add_argument(
        "--mixed_precision",
        default="none",
        choices=["none", "auto"],
        help="auto: if a metric falls too far, leave as few layers in fp32 as needed, largest errors first",
    )
    parser.add_argument(
        "--calibration_file", help="texts to measure the scales of activations on, for OpenVINO (default: --eval_file)"
    )
    arguments = parser.parse_args(argv)
    if arguments.mixed_precision == "auto" and not arguments.eval_file:
        parser.error("--mixed_precision auto needs an --eval_file")
    if arguments.backend == "openvino" and not (arguments.calibration_file or arguments.eval_file):
        parser.error("--backend openvino measures scales on texts: pass an --eval_file or a --calibration_file")
    if arguments.backend == "onnx" and arguments.calibration_file:
        parser.error("--calibration_file is for --backend openvino; ONNX computes its scales in every run")
    if arguments.backend == "openvino" and arguments.preset != "auto":
        parser.error("--preset is for --backend onnx")
    if not 0 <= arguments.max_drop <= 1:
        parser.error(f"--max_drop must be from 0 to 1, not {arguments.max_drop}")
    try:
        print(quantize(arguments), end="")
    except GateFailed as error:
        message, table = error.args
        print(table, file=sys.stderr)
        sys.exit(f"quantize.py: {message}; nothing was written. Try --mixed_precision auto or another --preset.")
    except (OSError, ValueError) as error:
        sys.exit(f"quantize.py: {error}")
    if not arguments.eval_file:
        print("Its accuracy was not measured: pass --eval_file.", file=sys.stderr)


if __name__ == "__main__":
    main()
