"""Texts that nobody writes, from strategies that Atheris can steer."""

from hypothesis import strategies as st

from tests.runtime.test_chunking import ATOMS, HAN, SPACES

REPEATED = [
    "!?",
    "a",
    ".",
    " ",
    "\n",
    "a.",
    ".a",
    "'",
    "(",
    "\u200d",
    "\u0301",
    "\xa0",
    "。",
    "。”",
    "東",
    "\ud800",
    "\0",
]
_any_character = st.characters(exclude_categories=())  # lone surrogates, NUL and unassigned ones too
_pieces = st.one_of(
    st.sampled_from(ATOMS + SPACES * 4 + HAN),
    st.text(_any_character, max_size=6),
    st.builds(lambda unit, times: unit * times, st.sampled_from(REPEATED), st.integers(1, 60)),
)
hostile_texts = st.lists(_pieces, max_size=20).map("".join)
