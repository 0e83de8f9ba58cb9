"""Trains a TSN model and writes it as a complete Hub folder.

    python train.py --backbone distilbert/distilbert-base-multilingual-cased \\
        --train_file train.parquet more.jsonl --validation_file validation.parquet --output_dir out

All options may stand in one YAML or JSON file, named first; options behind it take precedence:

    python train.py configs/tsn-e5.yaml --output_dir out

It runs under `accelerate launch` with several processes, too. `out` then holds the best model in the form that
`pipeline("topic-sentiment-ner", model="out", trust_remote_code=True)` loads, its learning curves, and checkpoints to
resume from. With `--validation_file`, the scores of the model are calibrated on it.

A small adapter instead of a whole model, on a base in 8 bits, and what it makes of the base:

    python train.py --backbone out --lora --load_in_8bit --train_file calls.jsonl --output_dir calls
    python train.py --merge_adapter calls/adapter --backbone out --output_dir merged

`calls/adapter` is the adapter, in PEFT's format; `calls` and `merged` hold the same plain model.
"""

import sys

from tsn.training.arguments import parse_arguments
from tsn.training.run import train
from tsn.training.trainer import NonFiniteLoss


def main(argv=None):
    train(*parse_arguments(sys.argv[1:] if argv is None else argv, __doc__))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, NonFiniteLoss) as error:
        sys.exit(f"train.py: {error}")
