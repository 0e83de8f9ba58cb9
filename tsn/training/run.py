"""Trains a model and writes it as a complete Hub folder: what `train.py` does."""

import json
import logging
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import AutoTokenizer, EarlyStoppingCallback, PretrainedConfig, set_seed

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from tagging_tsn import bioes_labels
from tsn.data.annotated import read_rows
from tsn.data.augmentation import augment
from tsn.data.features import TSNCollator, row_weights, rows_to_features, sample_indices, stream_features
from tsn.evaluation.calibration import fit_temperatures, store_temperatures
from tsn.evaluation.plots import plot_learning_curves
from tsn.heads import HEADS
from tsn.hub.folder import write_hub_folder
from tsn.training.lora import (
    adapter_config,
    add_adapter,
    base_sha256,
    check_base,
    eight_bits,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from tsn.training.trainer import LABELS, TSNTrainer, chunk_metrics

logger = logging.getLogger("train")
ADAPTER = "adapter"  # a folder of the output
CONFIGURED = (
    *("topic_labels", "ner_labels", "sentiment_labels", "ner_scheme", "loss_weights", "pooling", "chunk_words"),
    "head_dropout",
)
MODEL_OPTIONS = ("entity_types", "ner_scheme", "pooling", "chunk_words")


def load_model(arguments, config=None, **options):
    """The model to train, from an encoder or from a TSN model.

    Args:
        config: The `TSNConfig` that a model on an encoder gets, rather than what the arguments say.
        options: Of `from_pretrained`, such as `quantization_config`.
    """
    if config is None:
        given = {name: getattr(arguments, name) for name in MODEL_OPTIONS if getattr(arguments, name) is not None}
        if types := given.pop("entity_types", None):
            given["ner_labels"] = ["O", *types] if arguments.ner_scheme == "IO" else bioes_labels(types)
    else:
        given = {name: getattr(config, name) for name in CONFIGURED}
    if arguments.loss_weights is not None:
        if len(arguments.loss_weights) != len(HEADS):
            raise ValueError(f"--loss_weights needs {len(HEADS)} numbers: {', '.join(HEADS)}")
        given["loss_weights"] = dict(zip(HEADS, arguments.loss_weights))
    model_type = PretrainedConfig.get_config_dict(arguments.backbone)[0].get("model_type")
    if model_type != TSNConfig.model_type:
        return TSNModel.from_backbone(arguments.backbone, options, **given)
    model = TSNModel.from_pretrained(arguments.backbone, **options)
    model.config.loss_weights = given.pop("loss_weights", model.config.loss_weights)
    if given and config is None:
        given = {"entity_types" if name == "ner_labels" else name for name in given}
        raise ValueError(
            f"{arguments.backbone} is a TSN model, which brings its own {', '.join(given)}: leave them out."
        )
    return model


def set_dropout(encoder, probability):
    """Sets the dropout of a built encoder; its configuration, which others train by, stays."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        if isinstance(getattr(module, "dropout_prob", None), float):  # attention that applies it within its kernel
            module.dropout_prob = probability


def load_tokenizer(backbone):
    tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"{backbone} has no fast tokenizer, which the offsets come from.")
    return tokenizer


def load_adapted(arguments, lora, training):
    """The base with an adapter to train, new or gone on with."""
    options = {}
    if lora.load_in_8bit:
        options = {"quantization_config": eight_bits(), "dtype": torch.float32}
        training._n_gpu = 1  # weights in 8 bits cannot be copied to several GPUs by DataParallel
        if training.device.type == "cuda":
            options["device_map"] = {"": training.device.index or 0}
    if not lora.adapter:
        base = load_model(arguments, **options)
        return add_adapter(base, lora.lora_rank, lora.lora_alpha, lora.lora_dropout, lora.lora_modules)
    own = [f for f in fields(lora) if f.name.startswith("lora_") and getattr(lora, f.name) != f.default]
    given = [f.name for f in own] + [name for name in MODEL_OPTIONS if getattr(arguments, name) is not None]
    if given:
        raise ValueError(f"{lora.adapter} is an adapter, which brings its own {', '.join(given)}: leave them out.")
    config = adapter_config(lora.adapter)
    if lora.load_in_8bit:
        check_base(load_model(arguments, config), lora.adapter)
    return load_adapter(load_model(arguments, config, **options), lora.adapter, trainable=True)


def load_data(data, training, tokenizer, config, invalid=None):
    """The features to train on, and those to validate on or None. `invalid` is called as by `read_rows`."""

    def rows(paths, split):
        for path in paths:
            yield from read_rows(path, config, split, invalid, data.streaming)

    def training_rows():
        return augment(
            rows(data.train_file, "train"), data.lower_case, data.contrast, data.common_nouns, training.seed
        )

    def features(found, paths, split):
        found = rows_to_features(tqdm(found, desc=f"reading {split} data", unit="row"), tokenizer, config)
        if not len(found):
            raise ValueError(f"no rows with words in {', '.join(paths)}")
        return found

    validation = data.validation_file or None
    if validation:
        validation = features(rows(data.validation_file, "validation"), data.validation_file, "validation")
    if data.streaming:
        return stream_features(training_rows, tokenizer, config, training.seed), validation
    train = features(training_rows(), data.train_file, "train")
    weights = _weights(data.sampling_weights)
    if weights:
        train = train.select(sample_indices(train["source"][:], weights, training.seed))
        if validation is not None:
            validation = validation.select(np.flatnonzero(row_weights(validation["source"][:], weights)))
    logger.info("%d chunks of %d tokens in all to train on, an epoch", len(train), sum(train["length"]))
    return train, validation


def _weights(pairs):
    weights = {}
    for pair in pairs or []:
        name, _, weight = pair.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise ValueError(f"--sampling_weights takes NAME=WEIGHT, such as reviews=2, not {pair!r}")
    return weights


def find_checkpoint(training):
    """The checkpoint to go on from: a folder, or the newest of the output with `--resume_from_checkpoint last`.

    Raises:
        ValueError: there is none that was written to its end.
    """
    wanted = training.resume_from_checkpoint
    if wanted != "last":
        if wanted is not None and not is_whole(Path(wanted)):
            raise ValueError(f"--resume_from_checkpoint: {wanted} is no checkpoint that was written to its end")
        return wanted
    found = {int(path.name.rpartition("-")[2]): path for path in Path(training.output_dir).glob("checkpoint-[0-9]*")}
    whole = [step for step, path in found.items() if is_whole(path)]
    if not whole:
        raise ValueError(f"--resume_from_checkpoint last: there is no checkpoint in {training.output_dir}")
    return str(found[max(whole)])


def is_whole(checkpoint):
    """Whether a checkpoint was written to its end: the trainer writes its state last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any(checkpoint.glob("optimizer*"))


class InvalidRows:
    """Writes the rows that are left out to a file, each once however often a stream comes by, and counts them."""

    def __init__(self, path):
        self.path, self.seen = Path(path), set()

    def __call__(self, error, raw):
        if str(error) in self.seen:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a" if self.seen else "w", encoding="utf-8") as file:
            print(json.dumps({"error": str(error), "row": raw}, ensure_ascii=False, default=str), file=file)
        self.seen.add(str(error))

    def report(self):
        if self.seen:
            logger.warning("%d invalid rows were left out; see %s", len(self.seen), self.path)


def train(model_arguments, lora, data, training):
    """The command: trains, or merges an adapter, and writes the output folder.

    Args:
        model_arguments, lora, data, training: Of `tsn.training.arguments.parse_arguments`.

    Raises:
        OSError, ValueError: what was asked for does not go together or cannot be read.
        NonFiniteLoss: the training has diverged.
    """
    logging.basicConfig(level=logging.INFO if training.process_index == 0 else logging.ERROR, format="%(message)s")
    training.label_names = LABELS
    training.remove_unused_columns = False  # the collator takes what the model reads, and `row`
    training.accelerator_config.dispatch_batches = False  # each process reads a stream itself
    training.logging_nan_inf_filter = False  # it hides what TSNTrainer stops at
    if training.gradient_checkpointing_kwargs is None:  # the other kind needs an encoder that is trained, and no DDP
        training.gradient_checkpointing_kwargs = {"use_reentrant": False}
    set_seed(training.seed)
    tokenizer = load_tokenizer(model_arguments.backbone)
    if lora.merge_adapter:
        model = merge_adapter(load_model(model_arguments, adapter_config(lora.merge_adapter)), lora.merge_adapter)
        write_hub_folder(model, tokenizer, training.output_dir, torch.float32)
        logger.info("The merged model is in %s", training.output_dir)
        return
    checkpoint = find_checkpoint(training)
    if lora.lora and training.fsdp:
        raise ValueError("--lora cannot go with --fsdp")
    if training.early_stopping_patience is not None and not data.validation_file:
        raise ValueError("--early_stopping_patience needs a --validation_file")
    model = load_adapted(model_arguments, lora, training) if lora.lora else load_model(model_arguments)
    config = model.config
    if model_arguments.encoder_dropout is not None:
        set_dropout(model.backbone, model_arguments.encoder_dropout)
    invalid = None
    if data.invalid_rows == "skip":
        first = training.process_index == 0  # every process reads every row, one writes what is wrong
        invalid = InvalidRows(Path(training.output_dir) / "invalid_rows.jsonl") if first else lambda error, raw: None
    train, validation = load_data(data, training, tokenizer, config, invalid)
    if validation is None:
        training.eval_strategy, training.load_best_model_at_end = "no", False
    callbacks = []
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    trainer = TSNTrainer(
        model,
        training,
        data_collator=TSNCollator(tokenizer),
        train_dataset=train,
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
    weights = trainer.accelerator.get_state_dict(trainer.model)  # by all processes: with FSDP, each holds a part
    if trainer.is_world_process_zero():
        dtype = torch.float16
        if lora.lora:
            adapted = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
            model, dtype = save_and_merge(adapted, model_arguments, training), torch.float32
        else:
            model = TSNModel(config)
            model.load_state_dict(weights)
        finish(model, tokenizer, validation, trainer.state, training, dtype)
        if lora.lora:
            store_temperatures(Path(training.output_dir) / ADAPTER, model.config.temperatures)
    trainer.accelerator.wait_for_everyone()


def save_and_merge(adapted, arguments, training):
    """Writes the adapter and returns the plain model that it makes of its base, read anew: merged into one in 8 bits,
    it would keep their error."""
    base = load_model(arguments, TSNConfig.from_dict(adapted.config.to_dict()))
    folder = Path(training.output_dir) / ADAPTER
    save_adapter(adapted, folder, arguments.backbone, base_sha256(base))
    return merge_adapter(base, folder)


def finish(model, tokenizer, validation, state, training, dtype):
    """Writes what a training leaves: the calibrated model, the state and the learning curves."""
    out = Path(training.output_dir)
    if validation is not None:
        model.config.temperatures = fit_temperatures(model.float().to(training.device), tokenizer, validation)
        logger.info("Temperatures, on the validation data: %s", model.config.temperatures)
    write_hub_folder(model.cpu().eval(), tokenizer, out, dtype)
    best = state.best_model_checkpoint
    state.best_model_checkpoint = best and Path(best).name  # not where it lies on this machine
    state.save_to_json(str(out / "trainer_state.json"))
    plot_learning_curves(state.log_history, out / "learning_curves.png")
    logger.info("The model is in %s", out)
