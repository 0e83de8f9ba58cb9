"""`modeling_tsn.py`: outputs and losses against plain torch, and every way to run the model, on two encoders."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from modeling_tsn import TSNModel, summed_cross_entropy, summed_marginal_cross_entropy
from tagging_tsn import TagScheme, bioes_labels
from tests.conftest import TEXTS, make_model

HEADS = ("topic", "ner", "sentiment", "topic_sentiment")


def tokenized(tokenizer):
    batch = tokenizer(TEXTS[:3], padding=True, truncation=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any()  # some padding, or masks go untested
    return dict(batch)


@pytest.fixture
def inputs(tokenizer):
    return tokenized(tokenizer)


def random_labels(inputs, model):
    """Labels on some tokens; the second row has no entities, the third no sentiment."""
    generator = torch.Generator().manual_seed(1)
    shape = inputs["input_ids"].shape
    labels = {}
    for head in ("topic", "ner"):
        classes = len(getattr(model.config, f"{head}_labels"))
        drawn = torch.randint(0, classes, shape, generator=generator)
        labels[head] = torch.where(torch.rand(shape, generator=generator) < 0.4, drawn, -100)
    labels["ner"][1] = -100
    labels["sentiment"] = torch.tensor([2, 0, -100])
    drawn = torch.randint(0, 3, shape, generator=generator)
    labels["topic_sentiment"] = torch.where(torch.rand(shape, generator=generator) < 0.2, drawn, -100)
    return {f"{head}_labels": value for head, value in labels.items()}


def logits(output):
    return [output[f"{head}_logits"] for head in HEADS]


def assert_same_logits(one, two, tolerance=1e-5):
    for a, b in zip(logits(one), logits(two), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


# Forward


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_shapes(model, inputs, pooling):
    model.config.pooling = pooling
    output = model(**inputs)
    batch, tokens = inputs["input_ids"].shape
    assert output.topic_logits.shape == (batch, tokens, 5)
    assert output.ner_logits.shape == (batch, tokens, 17)
    assert output.sentiment_logits.shape == (batch, 3)
    assert output.topic_sentiment_logits.shape == (batch, tokens, 3)
    assert list(output) == [f"{head}_logits" for head in HEADS]  # nothing that was not asked for


def test_heads_have_the_classes_of_the_configuration(tokenizer):
    model = make_model("bert", len(tokenizer), ner_scheme="IO", sentiment_labels=["bad", "good"])
    output = model(torch.ones(2, 7, dtype=torch.long))
    assert output.ner_logits.shape == (2, 7, 5) and output.sentiment_logits.shape == (2, 2)


def test_tuple_is_the_output_in_order(model, inputs):
    labels = random_labels(inputs, model)
    output = model(**inputs, **labels, output_hidden_states=True)
    values = model(**inputs, **labels, output_hidden_states=True, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(output) == 10
    for value, expected in zip(values[:9], output.to_tuple()):
        assert torch.equal(value, expected)
    assert torch.equal(values[0], output.loss) and torch.equal(values[1], output.topic_logits)
    model.config.return_dict = False
    assert isinstance(model(**inputs), tuple)


def test_hidden_states_and_attentions_on_demand(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    eager = TSNModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.backbone.config._attn_implementation == "eager"
    batch, tokens = inputs["input_ids"].shape
    output = eager(**inputs, output_hidden_states=True, output_attentions=True)
    assert [h.shape for h in output.hidden_states] == [(batch, tokens, 32)] * 3  # embeddings and two layers
    assert [a.shape for a in output.attentions] == [(batch, 4, tokens, tokens)] * 2
    masked = inputs["attention_mask"][:, None, None, :] == 0
    for attention in output.attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(batch, 4, tokens))
        assert attention.masked_select(masked).abs().max() < 1e-6
    # The token heads read the last of the hidden states.
    torch.testing.assert_close(eager.topic_head(output.hidden_states[-1]), output.topic_logits)
    eager.config.output_hidden_states = True
    assert eager(**inputs).hidden_states is not None and eager(**inputs).attentions is None


def test_eager_and_sdpa_attention_agree(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    kinds = {kind: TSNModel.from_pretrained(tmp_path, attn_implementation=kind) for kind in ("eager", "sdpa")}
    assert all(m.backbone.config._attn_implementation == kind for kind, m in kinds.items())
    assert_same_logits(kinds["eager"](**inputs), kinds["sdpa"](**inputs))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_changes_nothing(model, inputs, pooling):
    model.config.pooling = pooling
    together = model(**inputs)
    for row, mask in enumerate(inputs["attention_mask"]):
        length = int(mask.sum())
        alone = model(**{name: value[row : row + 1, :length] for name, value in inputs.items()})
        for a, b in zip(logits(alone)[:2], logits(together)[:2]):
            torch.testing.assert_close(a[0], b[row, :length], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.sentiment_logits[0], together.sentiment_logits[row], atol=1e-5, rtol=0)


def test_pooling(model, inputs):
    mask = inputs["attention_mask"]
    results = {}
    for pooling in ("cls", "mean"):
        model.config.pooling = pooling
        results[pooling] = model(**inputs, output_hidden_states=True)
    hidden = results["mean"].hidden_states[-1]
    mean = torch.stack([row[: int(m.sum())].mean(0) for row, m in zip(hidden, mask)])
    for pooling, pooled in (("cls", hidden[:, 0]), ("mean", mean)):
        expected = pooled @ model.sentiment_head.weight.T + model.sentiment_head.bias
        torch.testing.assert_close(results[pooling].sentiment_logits, expected, atol=1e-5, rtol=0)
    assert (results["cls"].sentiment_logits - results["mean"].sentiment_logits).abs().max() > 1e-2


def test_the_sentiment_at_each_token(model, inputs):
    """The head is linear: the mean of what it reads at the tokens is what it reads at their mean."""
    mask = inputs["attention_mask"]
    model.config.pooling = "mean"
    output = model(**inputs, output_hidden_states=True)
    for at_tokens, of_text, m in zip(output.topic_sentiment_logits, output.sentiment_logits, mask):
        torch.testing.assert_close(at_tokens[: int(m.sum())].mean(0), of_text, atol=1e-5, rtol=0)
    assert output.topic_sentiment_logits[0].std(0).min() > 1e-3
    head = torch.nn.Linear(output.hidden_states[-1].shape[-1], 3)
    for pooling in ("cls", "mean"):
        own = make_model(model.config.backbone_config.model_type, model.config.vocab_size, topic_sentiment_head=True)
        own.load_state_dict(
            {**model.state_dict(), **{f"topic_sentiment_head.{n}": v for n, v in head.state_dict().items()}}
        )
        own.config.pooling = pooling
        torch.testing.assert_close(own(**inputs).topic_sentiment_logits, head(output.hidden_states[-1]))
    model.config.pooling = "cls"
    output = model(**inputs)
    for i in range(mask.shape[1]):
        assert torch.equal(output.topic_sentiment_logits[:, i], output.sentiment_logits)


def test_no_mask_means_that_all_tokens_are_read(model, inputs):
    ids = inputs["input_ids"]
    assert_same_logits(model(ids), model(ids, attention_mask=torch.ones_like(ids)))


def test_inputs_embeds(model, inputs):
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    embedded = model.get_input_embeddings()(ids)
    assert_same_logits(model(inputs_embeds=embedded, attention_mask=mask), model(ids, mask))


def test_token_types_reach_a_backbone_that_knows_them(model, inputs):
    plain = model(inputs["input_ids"], inputs["attention_mask"])
    typed = model(inputs["input_ids"], inputs["attention_mask"], torch.ones_like(inputs["input_ids"]))
    change = (plain.topic_logits - typed.topic_logits).abs().max()
    assert change > 1e-2 if model.config.backbone_config.model_type == "bert" else change == 0


# Losses


def test_losses_are_those_of_plain_torch(model, inputs):
    labels = random_labels(inputs, model)
    model.config.loss_weights = {"topic": 0.5, "ner": 2.0, "sentiment": 0.25}
    output = model(**inputs, **labels)
    expected = {}
    for head in HEADS:
        scores, wanted = output[f"{head}_logits"].detach(), labels[f"{head}_labels"]
        kept = [(s, w) for s, w in zip(scores.reshape(-1, scores.shape[-1]), wanted.reshape(-1)) if w >= 0]
        nats = [-functional.log_softmax(s, -1)[w] for s, w in kept]
        expected[head] = sum(nats) / len(nats)
        torch.testing.assert_close(output[f"{head}_loss"].detach(), expected[head])
    both = expected["sentiment"] + expected["topic_sentiment"]
    total = 0.5 * expected["topic"] + 2.0 * expected["ner"] + 0.25 * both
    torch.testing.assert_close(output.loss.detach(), total)
    assert all(torch.equal(a, b) for a, b in zip(logits(output), logits(model(**inputs))))  # labels change no logits


@pytest.mark.parametrize("given", HEADS)
def test_a_head_without_labels_adds_nothing(model, inputs, given):
    labels = random_labels(inputs, model)
    full = model(**inputs, **labels)
    weight = model.config.loss_weights[given.replace("topic_sentiment", "sentiment")]
    for rest in (None, -100):  # not given at all, or nothing known of the batch: what a collator gives
        some = {
            name: value if name == f"{given}_labels" else None if rest is None else torch.full_like(value, rest)
            for name, value in labels.items()
        }
        model.zero_grad()
        output = model(**inputs, **some)
        torch.testing.assert_close(output.loss, weight * full[f"{given}_loss"])
        output.loss.backward()
        for head in HEADS[:3]:
            gradient = getattr(model, f"{head}_head").weight.grad
            if head == given.replace("topic_sentiment", "sentiment"):  # one head reads both
                assert gradient.isfinite().all() and gradient.abs().max() > 0
            else:
                assert gradient is None or (gradient == 0).all()
        for head in set(HEADS) - {given}:
            loss = getattr(output, f"{head}_loss")
            assert loss is None if rest is None else loss == 0


def test_a_batch_of_which_nothing_is_known_trains_nothing(model, inputs):
    labels = {name: torch.full_like(value, -100) for name, value in random_labels(inputs, model).items()}
    loss = model(**inputs, **labels).loss
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_without_labels_there_is_no_loss(model, inputs):
    output = model(**inputs)
    assert output.loss is None and all(output[f"{head}_loss"] is None for head in HEADS if f"{head}_loss" in output)
    assert model(**inputs, return_dict=False)[0].shape == (*inputs["input_ids"].shape, 5)


def test_a_wrong_class_is_an_error(model, inputs):
    with pytest.raises((IndexError, RuntimeError)):
        model(**inputs, sentiment_labels=torch.tensor([0, 1, 3]))


SCHEMES = {
    "BIOES": TagScheme(bioes_labels(["PER", "LOC", "ORG"]), "BIOES"),
    "IO": TagScheme(["PER", "LOC", "O", "ORG"], "IO"),  # O need not come first
}


def marginal_by_hand(logits, labels, annotated, scheme):
    """The loss from its definition, in plain Python: a word labelled O may have any tag of a type that is open."""
    total = 0.0
    for row, row_labels, row_annotated in zip(logits.tolist(), labels.tolist(), annotated.tolist()):
        known = {name for name, there in zip(scheme.types, row_annotated) if there}
        for values, label in zip(row, row_labels):
            if label == -100:
                continue
            tags = [scheme.labels[label]]
            if tags == ["O"]:
                tags += [tag for tag in scheme.labels if tag != "O" and tag.rpartition("-")[2] not in known]
            share = sum(math.exp(values[scheme.labels.index(tag)]) for tag in tags) / sum(map(math.exp, values))
            total -= math.log(share)
    return total


@given(
    kind=st.sampled_from(sorted(SCHEMES)),
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
)
def test_the_loss_of_partly_annotated_entities(kind, seed, shape, scale):
    scheme, generator = SCHEMES[kind], torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, len(scheme.labels), generator=generator)
    logits.requires_grad_()
    labels = torch.randint(0, len(scheme.labels), shape, generator=generator)
    chance = torch.rand(shape, generator=generator)
    labels = labels.masked_fill(chance < 0.5, scheme.labels.index("O")).masked_fill(chance < 0.2, -100)
    annotated = torch.rand(shape[0], 3, generator=generator) < 0.5
    loss = summed_marginal_cross_entropy(logits, labels, annotated, scheme)
    expected = marginal_by_hand(logits.detach().double(), labels, annotated, scheme)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-4)
    loss.backward()
    assert logits.grad.isfinite().all() and (logits.grad[labels == -100] == 0).all()
    everything = torch.ones_like(annotated)
    plain = summed_cross_entropy(logits, labels)
    torch.testing.assert_close(summed_marginal_cross_entropy(logits, labels, everything, scheme), plain)
    torch.testing.assert_close(summed_marginal_cross_entropy(logits, labels, everything.long(), scheme), plain)


@pytest.mark.parametrize("scheme", ["BIOES", "IO"])
def test_entities_that_are_not_annotated_are_not_unlearnt(tokenizer, inputs, scheme):
    """Through the model: labels that leave a type open neither raise nor lower its tags beside O."""
    model = make_model("bert", len(tokenizer), ner_scheme=scheme)
    labels = torch.where(inputs["attention_mask"].bool(), 0, -100)  # nothing but O
    annotated = torch.tensor([[True, False, True, True]] * len(labels))  # without LOC
    output = model(**inputs, ner_labels=labels, annotated_entity_types=annotated)
    by_hand = marginal_by_hand(output.ner_logits.detach().double(), labels, annotated, model.config.entity_scheme())
    assert output.ner_loss.item() == pytest.approx(by_hand / (labels == 0).sum().item(), rel=1e-5)
    assert output.ner_loss < model(**inputs, ner_labels=labels).ner_loss
    (gradient,) = torch.autograd.grad(output.ner_loss, model.ner_head.bias)
    for tag, value in zip(model.config.ner_labels, gradient.tolist()):
        assert value < 0 if tag == "O" or tag.endswith("LOC") else value > 0  # a step downhill raises O and LOC
    for annotation in (None, torch.ones_like(annotated)):
        same = model(**inputs, ner_labels=labels, annotated_entity_types=annotation).ner_loss
        torch.testing.assert_close(same, model(**inputs, ner_labels=labels).ner_loss)


def test_a_label_outside_the_tags_is_an_error_also_where_types_are_open():
    logits, annotated = torch.zeros(1, 2, 13), torch.tensor([[True, False, True]])
    for wrong in (-1, 13):
        with pytest.raises((IndexError, RuntimeError)):
            summed_marginal_cross_entropy(logits, torch.tensor([[0, wrong]]), annotated, SCHEMES["BIOES"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(model, inputs, reentrant):
    labels, calls = random_labels(inputs, model), []
    first_linear = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.Linear))
    first_linear.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    gradients = []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.zero_grad()
        calls.clear()
        torch.manual_seed(3)  # the same dropout
        model(**inputs, **labels).loss.backward()
        assert len(calls) == (2 if on else 1)  # computed again on the way back
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == len(list(model.parameters()))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)


# Other ways to run


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(model, inputs, tmp_path, dtype):
    model.save_pretrained(tmp_path / "whole")
    half = TSNModel.from_pretrained(tmp_path / "whole", dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    labels = random_labels(inputs, model)
    output, expected = half(**inputs, **labels), model(**inputs, **labels)
    assert all(value.dtype == dtype for value in logits(output)) and output.loss.dtype == torch.float32
    for value, wanted in zip(logits(output), logits(expected)):
        torch.testing.assert_close(value.float(), wanted, atol=0.5, rtol=0.1)
    torch.testing.assert_close(output.loss, expected.loss, atol=0.1, rtol=0)
    # What was saved in half precision loads again in either.
    half.save_pretrained(tmp_path / "half")
    for wanted in (dtype, torch.float32):
        again = TSNModel.from_pretrained(tmp_path / "half", dtype=wanted)
        assert {p.dtype for p in again.parameters()} == {wanted}
        assert torch.equal(again.topic_head.weight, half.topic_head.weight.to(wanted))
        assert again(**inputs).topic_logits.isfinite().all()


@pytest.mark.slow
def test_compiled(model, inputs):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_same_logits(compiled(**inputs), model(**inputs), tolerance=1e-6)


@pytest.mark.slow
def test_compiled_with_labels(model, inputs):
    annotated = torch.tensor([[True, False, True, True]] * len(inputs["input_ids"]))
    labels = random_labels(inputs, model) | {"annotated_entity_types": annotated}
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**inputs, **labels).loss, model(**inputs, **labels).loss)


@pytest.mark.slow
def test_exported(model, inputs):
    arguments = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    auto = torch.export.Dim.AUTO
    dynamic = {name: {0: auto, 1: auto} for name in arguments}
    with torch.no_grad():
        program = torch.export.export(model, (), arguments, dynamic_shapes=dynamic)
        for rows, tokens in ((3, None), (2, 11)):  # as traced, and another shape
            shape = {name: value[:rows, :tokens] for name, value in arguments.items()}
            assert_same_logits(program.module()(**shape), model(**shape), tolerance=1e-6)
