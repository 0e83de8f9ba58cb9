"""The three heads: their names, the figure that stands for each, and the model's outputs.

The runtime files travel alone and keep their own (`configuration_tsn.TASKS`, `graph_tsn.OUTPUTS`), which
`tests/test_layout.py` compares with these. This file imports nothing, so that it costs nothing to import.
"""

HEADS = ("topic", "ner", "sentiment")
MAIN_METRICS = {"topic": "topic_f1", "ner": "ner_f1", "sentiment": "sentiment_macro_f1"}
"""The figure that stands for each head; `score` is the mean of those that exist."""
OUTPUTS = [*(f"{head}_logits" for head in HEADS), "topic_sentiment_logits"]
"""Names of the model's outputs, in a graph's order; the last is the sentiment at the words of a topic."""
