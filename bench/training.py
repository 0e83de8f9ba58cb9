"""How fast `train.py` trains, beside a bare loop over the same batches.

    python -m bench.training --backbone out/backbone --data ../shared/data --steps 12

In turns, in one process: `TSNTrainer` as `train.py` sets it up, and a loop of forward, backward, clipping and
optimizer step over the batches that the trainer's loader gave, already collated. Writes `results/training.json`.
"""

import argparse
import copy
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback, set_seed

from bench.figures import spread
from bench.machine import describe_machine, versions
from tsn.data.features import TSNCollator
from tsn.paths import ROOT
from tsn.training.arguments import parse_arguments
from tsn.training.data import load_data
from tsn.training.model import load_model, load_tokenizer
from tsn.training.trainer import TSNTrainer


class _Clock(TrainerCallback):
    """Seconds of each step, loading of its batch included."""

    def __init__(self):
        self.seconds, self.last = [], None

    def on_train_begin(self, *args, **kwargs):
        self.last = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def trainer_seconds(model, training, features, tokenizer):
    """Seconds of the trainer's steps, and the batches that they read."""
    batches = []

    class Recorded(TSNCollator):
        def __call__(self, rows):
            batches.append(super().__call__(rows))
            return batches[-1]

    clock = _Clock()
    trainer = TSNTrainer(model, training, data_collator=Recorded(tokenizer), train_dataset=features, callbacks=[clock])
    set_seed(training.seed)
    trainer.train()
    return sum(clock.seconds), batches[: training.max_steps]


def bare_seconds(model, training, batches):
    """Seconds of the same steps in a bare loop."""
    model.train()
    heads = [p for n, p in model.named_parameters() if "_head." in n]
    rest = [p for n, p in model.named_parameters() if "_head." not in n]
    groups = [{"params": heads, "lr": training.head_learning_rate}, {"params": rest, "lr": training.learning_rate}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    start = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.bf16):
            loss = model(**{name: values for name, values in batch.items() if name != "row"}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "tsn-e5.yaml"), help="options of train.py")
    parser.add_argument("--backbone", required=True, help="encoder to start from")
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data"), help="folder with validation.parquet")
    parser.add_argument("--steps", type=int, default=12, help="steps of each turn (default: 12)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the trainer and of the loop (default: 3)")
    parser.add_argument("--output_dir", default=str(ROOT / "results"), help="where training.json goes")
    arguments = parser.parse_args(argv)
    unused = tempfile.mkdtemp()  # train.py needs an output folder
    options = [arguments.config, "--backbone", arguments.backbone, "--output_dir", unused, "--use_cpu"]
    options += ["--train_file", f"{arguments.data}/validation.parquet", "--max_steps", str(arguments.steps)]
    options += ["--save_strategy", "no", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    model_arguments, _, data, training = parse_arguments(options)
    data.sampling_weights = data.validation_file = None
    tokenizer, model = load_tokenizer(arguments.backbone), load_model(model_arguments)
    features, _ = load_data(data, tokenizer, model.config, training.seed)
    turns = []
    for _ in range(arguments.repeats):
        seconds, batches = trainer_seconds(copy.deepcopy(model), training, features, tokenizer)
        bare = bare_seconds(copy.deepcopy(model), training, batches)
        tokens = int(sum(batch["attention_mask"].sum() for batch in batches))
        turns.append({"train.py": seconds, "bare loop": bare, "tokens": tokens})
    shutil.rmtree(unused)
    ratio = spread([turn["bare loop"] / turn["train.py"] for turn in turns])
    record = {"steps": arguments.steps, "turns": turns, "throughput_ratio": ratio}
    record |= {"machine": describe_machine(), "versions": versions()}
    out = Path(arguments.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"train.py has {ratio['median']:.3f} ({ratio['min']:.3f}-{ratio['max']:.3f}) of a bare loop's throughput")


if __name__ == "__main__":
    main()
