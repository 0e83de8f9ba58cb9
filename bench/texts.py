"""The texts that are measured: from the data folder, or made here where there is none."""

import random
import re
from itertools import cycle
from pathlib import Path

KINDS = ("tweets", "sentences", "news")
_SOURCES = {"tweets": "tweeteval", "sentences": "conll2003"}
_NAMES = "Acme,Amira Haddad,Banco Azul,Berlin,Colombia,Dr. Osei,Maria Gomez,Madrid,Nordwind,the United Nations".split(
    ","
)
_WORDS = """able about account after again against agreement airport almost alone already although amount answer area
arrive autumn average bank battery because before begin behind believe between board book border bring bridge budget
build business camera careful carry century change charge city clear climate close coffee cold company computer concert
contract control cost council country courage court customer daily danger decision deep defence delay design despite
difficult dinner doctor doubt early economy election electricity energy engine enough environment evening every example
expensive factory failure family farmer finally finance floor follow football foreign forest friend future garden
general glad government great growth happy harbour healthy heavy history hospital hotel household however important
improve increase industry infrastructure inside insurance interest international investigation island journey judge
keyboard kitchen knowledge labour language large laptop later law leader library light literature local machine manager
market match measure medicine meeting memory message minister modern money month morning mountain museum music nation
nearly negotiation neighbour network never night number office official open opinion orchestra order other outside
painting parliament patient payment people perhaps photograph picture plan player police political popular population
position power president pressure price problem process professor programme project protest public quality quarter
question quick railway rain reason record region report research restaurant result river road rude school science
screen season secretary service several shop short sister slow small society software soldier soup south station
statistics story street strong student success summer support surprise system teacher team telephone terrible theatre
ticket today together tomorrow tourist tradition traffic train transport travel treatment trouble university value
village visitor waiter wall warning water weather website week weekend winter without wonderful worker world""".split()
_LINKS = "the a of in and to for with on by from at is was has said will not this that".split()


def read_texts(folder):
    """All texts of each kind.

    Args:
        folder: Holds `test.parquet` and `news.parquet`; where it does not exist itself, texts are made.

    Returns:
        `(texts, origin)`: dict of each kind to its list of strings, and a sentence on where they come from.

    Raises:
        OSError: a file is missing.
        ValueError: a kind has no text.
    """
    if not Path(folder).is_dir():
        return generate_texts(), "made by a seeded generator, as the data folder is absent"
    import pyarrow.parquet as parquet  # only where there is something to read

    for name in ("test.parquet", "news.parquet"):
        if not (Path(folder) / name).exists():
            raise OSError(f"{folder} has no {name}")
    test = parquet.read_table(Path(folder) / "test.parquet", columns=["source", "text"]).to_pylist()
    texts = {kind: [row["text"] for row in test if row["source"] == source] for kind, source in _SOURCES.items()}
    texts["news"] = parquet.read_table(Path(folder) / "news.parquet", columns=["text"])["text"].to_pylist()
    texts = {kind: [text for text in found if text.strip()] for kind, found in texts.items()}
    lacking = [kind for kind, found in texts.items() if not found]
    if lacking:
        raise ValueError(f"no {' and no '.join(lacking)} in the data folder: is it this project's data?")
    return texts, "tweeteval (tweets) and conll2003 (sentences) of test.parquet, news of news.parquet"


def generate_texts(seed=0):
    """Texts of real English words in lengths like those of the data: dict of each kind to a list of strings."""
    rng = random.Random(seed)
    tweets = [_sentence(rng, rng.randint(4, 28)) for _ in range(700)]
    sentences = [_sentence(rng, min(int(rng.expovariate(1 / 9)) + 3, 60)) for _ in range(700)]
    return {"tweets": tweets, "sentences": sentences, "news": [_article(rng) for _ in range(300)]}


def _article(rng):
    sentences = [_sentence(rng, rng.randint(6, 34)) for _ in range(rng.randint(3, 37))]
    return "".join(sentence + ("\n\n" if rng.random() < 0.2 else " ") for sentence in sentences).strip()


def _sentence(rng, words):
    found = []
    while len(found) < words:
        draw = rng.random()
        word = rng.choice(_NAMES if draw < 0.08 else _LINKS if draw < 0.45 else _WORDS)
        found += (word + "," if rng.random() < 0.06 else word).split()
    found = " ".join(found[:words]).rstrip(",")
    return found[0].upper() + found[1:] + rng.choice("...!?")


def sample(texts, number, seed=0):
    """`number` of the texts, or all if there are fewer; the same ones each time."""
    return random.Random(seed).sample(texts, min(number, len(texts)))


def count_words(texts):
    """Words between white space."""
    return sum(len(text.split()) for text in texts)


def join_articles(articles, words):
    """One text of exactly `words` words: articles with a blank line between, again from the first if need be."""
    joined, length = [], 0
    for article in cycle(articles):
        joined.append(article)
        length += len(article.split())
        if length >= words:
            return documents("\n\n".join(joined), words, 1)[0]


def documents(text, words, number):
    """`number` pieces of exactly `words` words, spread evenly over the text, so that all lengths see like material."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    step = len(spans) // number
    return [text[spans[i * step][0] : spans[i * step + words - 1][1]] for i in range(number)]
