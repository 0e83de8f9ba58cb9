"""Knowledge distillation: a model learns what another one says, beside what the data say."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling_tsn import LOSSES, TSNModel
from tsn.training.trainer import TSNTrainer

TEMPERATURE = 2.0
SOFT_LOSSES = {"token": 1.0, "text": 0.3, "hidden": 1.0}
"""What is learned from the teacher, and its weight beside the losses of the labels: see [`DistillationTrainer`]."""

# Whatever kernel `train` chose for the backward pass: the teacher has none, and the fused ones are faster.
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_TOKEN_HEADS = {"topic": "topic", "ner": "ner", "topic_sentiment": "sentiment"}


class DistillationTrainer(TSNTrainer):
    """Adds the teacher's answers to the labels, so that texts without labels teach, too.

    - `token`: Kullback-Leibler divergence of the student's tags from the teacher's at every token, both softened by a
      temperature (Hinton et al. 2015, Distilling the Knowledge in a Neural Network), summed over the three token heads
      by their loss weights.
    - `text`: the same for the sentiment of each chunk.
    - `hidden`: squared distance of the encoders' last states, as a share of the teacher's squared length (the hidden
      states of TinyBERT, Jiao et al. 2020), where both are equally wide.

    Args:
        teacher: A [`TSNModel`] with the labels of the student.
        args, kwargs: Those of [`TSNTrainer`].

    Raises:
        ValueError: teacher and student have different labels.
    """

    loss_names = (*LOSSES, *SOFT_LOSSES)

    def __init__(self, teacher: TSNModel, *args, **kwargs):
        super().__init__(*args, **kwargs)
        student: Any = self.model.config  # type: ignore[union-attr]
        for name in ("topic_labels", "ner_labels", "sentiment_labels"):
            if getattr(teacher.config, name) != getattr(student, name):
                raise ValueError(f"the teacher has other {name} than the model to train")
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        self.teacher = teacher.to(dtype).to(self.args.device).eval().requires_grad_(False)  # type: ignore[arg-type]

    def loss_weights(self):
        return [*super().loss_weights(), *SOFT_LOSSES.values()]

    def label_counts(self, batch):
        tokens = batch["attention_mask"].sum()  # ()
        soft = torch.stack([tokens, torch.full_like(tokens, len(batch["row"])), tokens])  # (soft losses,)
        return torch.cat([super().label_counts(batch), soft])  # (losses,)

    def model_outputs(self, model, inputs):
        return model(**inputs, output_hidden_states=True)

    def summed_losses(self, outputs, inputs, labels):
        with torch.no_grad(), sdpa_kernel(_ATTENTION):
            taught = self.teacher(**inputs, output_hidden_states=True)
        weights, mask = self.model.config.loss_weights, inputs["attention_mask"].bool()  # (batch, tokens)
        token = sum(
            weights[key] * _divergence(outputs[f"{name}_logits"][mask], taught[f"{name}_logits"][mask])
            for name, key in _TOKEN_HEADS.items()
        )
        text = _divergence(outputs.sentiment_logits, taught.sentiment_logits)
        ours, theirs = outputs.hidden_states[-1], taught.hidden_states[-1]  # (batch, tokens, hidden) each
        hidden = torch.zeros_like(text)
        if ours.shape == theirs.shape:
            ours, theirs = ours[mask].float(), theirs[mask].float()  # (tokens, hidden) each
            hidden = ((ours - theirs).square().sum(-1) / theirs.square().sum(-1)).sum()
        return [*super().summed_losses(outputs, inputs, labels), token, text, hidden]


def _divergence(logits, taught):
    """Summed over the rows of two `(rows, classes)` tensors, and scaled as gradients shrink by the temperature."""
    ours, theirs = ((values.float() / TEMPERATURE).log_softmax(-1) for values in (logits, taught))
    return nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True) * TEMPERATURE**2  # ()


def keep_layers(model: TSNModel, count: int) -> None:
    """Leaves `count` of the encoder's layers, evenly spaced, the first and the last among them.

    Of the ways tried to begin with 6 of 12 (100 steps each, one run), these were the closest to the teacher: hidden
    loss .22, against .54 without the last layer, as DistilBERT begins, and 1.12 with the first six.

    Raises:
        ValueError: the encoder has fewer layers, or they are not found.
    """
    config = model.config.backbone_config
    total = config.num_hidden_layers
    if not 1 <= count <= total:
        raise ValueError(f"--num_layers must be from 1 to the {total} layers of the encoder, not {count}")
    stacks = [
        (parent, name)
        for parent in model.backbone.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == total
    ]
    if len(stacks) != 1:
        raise ValueError(f"--num_layers: the layers of a {config.model_type!r} encoder are not found")
    ((parent, name),) = stacks
    layers = getattr(parent, name)
    setattr(parent, name, nn.ModuleList(layers[i] for i in torch.linspace(0, total - 1, count).round().int()))
    config.num_hidden_layers = count
