"""Exports a TSN checkpoint to ONNX, quantizes it to int8 and checks that it is still accurate.

    python quantize.py CHECKPOINT --output_dir out
    python quantize.py . --output_dir out --eval_file ../shared/data/validation.parquet --mixed_precision auto

`out` becomes a complete Hub folder whose `onnx` folder holds `model.onnx` (fp32), `model_quantized.onnx` (int8),
`ort_config.json` and `quantization_report.json`. Load it with

    pipeline("topic-sentiment-ner", model="out", trust_remote_code=True,
             model_kwargs={"onnx_file": "model_quantized.onnx"})

With --eval_file, nothing is written if a head's main metric falls by more than --max_drop.
"""

import argparse
import sys

from tsn.quantization.export import PRESETS
from tsn.quantization.run import GateFailed, quantize


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("--output_dir", required=True, help="folder to write; may be the checkpoint's own")
    parser.add_argument(
        "--preset", default="auto", choices=["auto", *PRESETS], help="processor to quantize for (default: this one)"
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
        "--calibration_file", help="texts to measure activation ranges on, for static scales (default: dynamic scales)"
    )
    arguments = parser.parse_args(argv)
    if arguments.mixed_precision == "auto" and not arguments.eval_file:
        parser.error("--mixed_precision auto needs an --eval_file")
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
