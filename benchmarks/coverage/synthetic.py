"""The contested-top population: rare positives hide among decoys, and a cue tells them apart.

20 features, standard normal. Positives and decoys (a small share of the negatives) are both shifted
on features 0-2, so these say "suspicious" but not "positive"; features 5 and 6 carry a cue that
positives alone have. The densities are known, so the best possible score is too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

CUES = ("product", "radial", "linear")
N_FEATURES = 20
N_TRAIN, N_TEST = 150_000, 300_000
POSITIVE_RATE = 0.0015
DECOY_RATE = 0.012  # of the negatives
DECOYED = slice(0, 3)
SHIFT = 2.5  # of positives and decoys, on each of the three features
CUED = slice(5, 7)
CUE_SIZE = 1.7


class Part(NamedTuple):
    features: Tensor  # float32 [N, D]
    targets: Tensor  # int64 [N] of 0 and 1


class Population(NamedTuple):
    train: Part
    test: Part


def draw(cue: str, seed: int) -> Population:
    """Training and test rows of one seed, independent of each other and of other seeds."""
    generator = torch.Generator().manual_seed(1000 + seed)
    train = draw_rows(N_TRAIN, cue, generator)
    return Population(train, draw_rows(N_TEST, cue, generator))


def draw_rows(n: int, cue: str, generator: torch.Generator) -> Part:
    features = torch.randn(n, N_FEATURES, generator=generator)
    positive = torch.rand(n, generator=generator) < POSITIVE_RATE
    decoy = (torch.rand(n, generator=generator) < DECOY_RATE) & ~positive
    features[:, DECOYED] += SHIFT * (positive | decoy)[:, None]
    if cue == "product":  # both features up, or both down
        signs = 2 * torch.randint(0, 2, (int(positive.sum()), 1), generator=generator) - 1
        features[positive, CUED] += CUE_SIZE * signs
    elif cue == "radial":
        features[positive, CUED] *= 1 + CUE_SIZE
    elif cue == "linear":
        features[positive, CUED] += CUE_SIZE
    else:
        raise ValueError(f"cue must be one of {CUES}, got {cue!r}")
    return Part(features, positive.long())


def log_likelihood_ratio(features: Tensor, cue: str) -> Tensor:
    """``log p(x | positive) / p(x | negative)``, exact, ``[N]`` float64.

    By the lemma of Neyman and Pearson no score has a higher TPR at any FPR, and since it is
    increasing in the posterior, none has a higher recall among the top share of all rows.
    """
    features = features.double()
    shifted = features[:, DECOYED]
    # log N(x; SHIFT, 1) / N(x; 0, 1), over the three features
    suspicious = (SHIFT * shifted - SHIFT**2 / 2).sum(dim=1)
    rates = torch.tensor([1 - DECOY_RATE, DECOY_RATE], dtype=torch.float64).log()
    negative = torch.logaddexp(rates[0], rates[1] + suspicious)
    return suspicious - negative + _cue_ratio(features[:, CUED], cue)


def _cue_ratio(cued: Tensor, cue: str) -> Tensor:
    """Of the two cued features alone, which are standard normal for all negatives."""
    if cue == "radial":
        spread = 1 + CUE_SIZE
        return cued.square().sum(dim=1) / 2 * (1 - spread**-2) - 2 * math.log(spread)
    lean = CUE_SIZE * cued.sum(dim=1)
    if cue == "product":  # the mean of both signs: log cosh, written so that it does not overflow
        lean = torch.logaddexp(lean, -lean) - math.log(2)
    return lean - CUE_SIZE**2
