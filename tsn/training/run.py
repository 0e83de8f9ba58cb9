"""What `train.py` does: build the model, read the data, fit, and write a complete Hub folder."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import EarlyStoppingCallback, set_seed

from modeling_tsn import TSNModel
from tsn.data.features import TSNCollator
from tsn.training.arguments import DataArguments, LoraArguments, ModelArguments, TSNTrainingArguments
from tsn.training.checkpoints import find_checkpoint
from tsn.training.data import InvalidRows, load_data
from tsn.training.distillation import DistillationTrainer
from tsn.training.export import export, merge
from tsn.training.model import build_model, load_tokenizer
from tsn.training.trainer import TSNTrainer, check_metric, chunk_metrics


def train(
    model_arguments: ModelArguments, lora: LoraArguments, data: DataArguments, training: TSNTrainingArguments
) -> None:
    """The command: trains, or merges an adapter, and writes the output folder.

    Args:
        model_arguments, lora, data, training: See `tsn.training.arguments.parse_arguments`.

    Raises:
        OSError, ValueError: options that do not go together, or something that cannot be read.
        NonFiniteLoss: the training has diverged.
    """
    logging.basicConfig(level=logging.INFO if training.process_index == 0 else logging.ERROR, format="%(message)s")
    set_seed(training.seed)
    if lora.merge_adapter:
        merge(model_arguments, lora.merge_adapter, training.output_dir)
        return
    checkpoint = find_checkpoint(training.resume_from_checkpoint, training.output_dir)
    tokenizer = load_tokenizer(model_arguments.backbone)
    model = build_model(model_arguments, lora, training.device)
    config: Any = model.config
    invalid = None
    if data.invalid_rows == "skip":
        first = training.process_index == 0  # every process reads every row, one writes what is wrong
        invalid = InvalidRows(Path(training.output_dir) / "invalid_rows.jsonl") if first else lambda error, raw: None
    taught = model_arguments.teacher is not None
    features, validation = load_data(data, tokenizer, config, training.seed, invalid, taught)
    if training.eval_strategy != "no":
        check_metric(training.metric_for_best_model, validation, tokenizer, config)
    callbacks = []
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    trainer_class: Any = TSNTrainer
    if model_arguments.teacher is not None:
        teacher = TSNModel.from_pretrained(model_arguments.teacher, dtype=torch.float32)
        trainer_class = partial(DistillationTrainer, teacher)
    trainer = trainer_class(
        model,
        training,
        data_collator=TSNCollator(tokenizer),
        train_dataset=features,
        eval_dataset=validation,
        processing_class=tokenizer,
        compute_metrics=chunk_metrics(config),
        callbacks=callbacks,
    )
    # On a CPU, the backward pass of the fused attention in bf16 takes seven times as long as plain products.
    plain = training.bf16 and training.device.type == "cpu"
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        trainer.train(resume_from_checkpoint=checkpoint)
    if isinstance(invalid, InvalidRows):
        invalid.report()
    export(trainer, model_arguments, tokenizer, validation)
