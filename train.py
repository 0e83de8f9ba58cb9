"""Trains a TSN model and writes it as a complete Hub folder.

    python train.py --backbone distilbert/distilbert-base-multilingual-cased \\
        --train_file train.parquet more.jsonl --validation_file validation.parquet --output_dir out

Options can also come from a YAML or JSON file, named first; options after it take precedence:

    python train.py configs/tsn-e5.yaml --output_dir out

It also runs under `accelerate launch` with several processes. `out` then holds the best model in the form that
`pipeline("topic-sentiment-ner", model="out", trust_remote_code=True)` loads, its learning curves, and checkpoints to
resume from with `--resume_from_checkpoint last`. With `--validation_file`, the model is evaluated on it as it trains,
the best checkpoint is kept, and at the end the scores are calibrated on it.

For texts as people write and say them, more training rows are made of the given ones:

    python train.py --backbone . --train_file train.parquet --lower_case 0.25 --contrast 0.15 --common_nouns \\
        --output_dir out

A small adapter instead of a whole model, trained on a base in 8 bits, and merging it into its base:

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
