"""What a training leaves behind: a calibrated model in a complete Hub folder, an adapter, and the learning curves."""

import logging
from pathlib import Path
from typing import cast

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerState

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from tsn.evaluation.calibration import fit_temperatures, store_temperatures
from tsn.evaluation.plots import plot_learning_curves
from tsn.hub.folder import write_hub_folder
from tsn.training.arguments import ModelArguments, TSNTrainingArguments
from tsn.training.lora import adapter_config, base_sha256, merge_adapter, save_adapter
from tsn.training.model import load_model, load_tokenizer
from tsn.training.trainer import TSNTrainer

logger = logging.getLogger("train")
ADAPTER = "adapter"  # a folder of the output


def export(
    trainer: TSNTrainer, arguments: ModelArguments, tokenizer: PreTrainedTokenizerFast, validation: Dataset | None
) -> None:
    """Writes the output of a training; of several processes all must call this, and the first writes."""
    weights = trainer.accelerator.get_state_dict(trainer.model)  # by all processes: with FSDP, each holds a part
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        training = cast(TSNTrainingArguments, trainer.args)
        out = Path(training.output_dir)
        if isinstance(model, TSNModel):
            plain = TSNModel(model.config)
            plain.load_state_dict(weights)
            write_output(plain, tokenizer, validation, trainer.state, training, torch.float16)
        else:
            merged = _save_and_merge(model, arguments, out / ADAPTER)
            write_output(merged, tokenizer, validation, trainer.state, training, torch.float32)
            store_temperatures(out / ADAPTER, merged.config.temperatures)
    trainer.accelerator.wait_for_everyone()


def merge(arguments: ModelArguments, adapter: str, output_dir: str) -> None:
    """Writes what an adapter makes of its base, `--backbone`, as a complete Hub folder."""
    model = merge_adapter(load_model(arguments, adapter_config(adapter)), adapter)
    write_hub_folder(model, load_tokenizer(arguments.backbone), output_dir, torch.float32)
    logger.info("The merged model is in %s", output_dir)


def _save_and_merge(adapted, arguments, folder):
    """Writes the adapter and returns the plain model that it makes of its base. The base is loaded again: merged into
    one in 8 bits, the adapter would keep that one's error."""
    base = load_model(arguments, TSNConfig.from_dict(adapted.config.to_dict()))
    save_adapter(adapted, folder, arguments.backbone, base_sha256(base))
    return merge_adapter(base, folder)


def write_output(
    model: TSNModel,
    tokenizer: PreTrainedTokenizerFast,
    validation: Dataset | None,
    state: TrainerState,
    training: TSNTrainingArguments,
    dtype: torch.dtype,
) -> None:
    """Writes the calibrated model, the trainer's state and the learning curves.

    Args:
        validation: Features to calibrate on; None leaves the temperatures as they are.
        dtype: Of the weights in the file.
    """
    out = Path(training.output_dir)
    if validation is not None:
        model.config.temperatures = fit_temperatures(model.float().to(training.device), tokenizer, validation)
        logger.info("Temperatures, on the validation data: %s", model.config.temperatures)
    write_hub_folder(model.cpu().eval(), tokenizer, out, dtype)
    best = state.best_model_checkpoint
    state.best_model_checkpoint = best and Path(best).name  # the path on this machine is nobody's business
    state.save_to_json(str(out / "trainer_state.json"))
    plot_learning_curves(state.log_history, out / "learning_curves.png")
    logger.info("The model is in %s", out)
