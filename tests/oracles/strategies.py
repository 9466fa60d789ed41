"""Hypothesis strategies: whole random problems, as plain lists that print well when they fail."""

import random
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from tests.oracles.reference import EPS32, EPS64

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
MAX_ROWS = 24
MAX_QUEUE = 20
BOUND = 30.0  # every dtype holds it, float16 with 1/32 of resolution
FLOOR = 2.0**-10
INTERPOLATIONS = ("linear", "lower", "higher", "nearest", "midpoint")


class Batch(NamedTuple):
    logits: list[list[float]]
    targets: list[int]
    iid: list[bool] | None
    weight: list[float] | None
    column: bool  # targets go in as [N, 1]


class Problem(NamedTuple):
    num_classes: int
    queue_size: int
    dtype: str  # of the logits
    options: dict  # what is missing takes its default
    batches: list[Batch]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Half-precision logits are computed in float32."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def eps(self) -> float:
        return EPS64 if self.dtype == "float64" else EPS32


SEEDS = st.integers(0, 2**32 - 1)


def in_shares(*pairs):
    """One of several strategies, each as often as its share says (`one_of` drops repetitions)."""
    repeated = [strategy for strategy, share in pairs for _ in range(share)]
    return st.integers(0, len(repeated) - 1).flatmap(lambda k: repeated[k])


# --- scores ---


def gaussian_scores(count: int):
    """Bell-shaped scores from a drawn seed: one choice for the engine instead of `count`."""

    def sample(seed: int) -> list[float]:
        source = random.Random(seed)
        return [max(-BOUND, min(BOUND, source.gauss(0, 2))) for _ in range(count)]

    return SEEDS.map(sample)


def raw_scores(count: int):
    """`count` scores: few values (ties), a grid of 1/64, any bounded float, or a bell curve."""

    def listed(element):
        return st.lists(element, min_size=count, max_size=count)

    few = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=3, unique=True)
    return st.one_of(
        few.flatmap(lambda values: listed(st.sampled_from(values))),
        listed(st.integers(-2, 2).map(float)),
        listed(st.integers(-64, 64).map(lambda k: k / 64)),
        listed(st.floats(-BOUND, BOUND, allow_subnormal=False)),
        gaussian_scores(count),
    )


def round_to(scores: list[float], dtype: str) -> list[float]:
    """The scores as `dtype` holds them, so that the reference sees what the package sees.

    Scores below FLOOR become zero: the square of a logistic loss in units of the smallest possible
    dispersion then still fits into float32.
    """
    kept = [s if abs(s) >= FLOOR else 0.0 for s in scores]
    return torch.tensor(kept, dtype=torch.float64).to(DTYPES[dtype]).tolist()


# --- options ---


@st.composite
def both_edges(draw):
    """Levels in quarters (the rank is often a whole or a half), 64ths, or 1000ths, which round."""
    parts = draw(st.sampled_from([64, 4, 1000]))
    low = draw(st.integers(0, parts - 1))
    high = draw(st.integers(low + 1, parts))
    return {"alpha": low / parts, "beta": high / parts}


def bands():
    """alpha and beta, each sometimes left to its default (0 and 0.005)."""
    return st.one_of(
        both_edges().map(lambda band: {"beta": band["beta"]}),
        both_edges(),
        st.sampled_from([{}, {"alpha": 0.001}, {"alpha": 0.0, "beta": 1.0}]),
    )


def link_options():
    """The link is an option of the pairwise surrogate; the trapezoid ignores it."""
    return st.fixed_dictionaries(
        {},
        optional={
            "surrogate": st.sampled_from(["trapezoid", "pairwise"]),
            "link": st.sampled_from(["sigmoid", "logistic"]),
            "n_knots": st.integers(2, 6),
        },
    )


@st.composite
def options(draw):
    """Any combination of options, each left out half of the time to exercise the defaults."""
    others = st.fixed_dictionaries(
        {},
        optional={
            "tau_scale": st.sampled_from(["iqr", "band", "unit"]),
            "pos_numerator": st.sampled_from(["pool", "live"]),
            "budget_basis": st.sampled_from(["fpr", "population"]),
            "temperature": st.sampled_from([0.01, 0.1, 0.5, 1.0, 3.0]),
            "reduction": st.sampled_from(["mean", "sum", "none"]),
            "ignore_index": st.sampled_from([-100, 0, -1, 255]),
            "quantile_interpolation": st.sampled_from(INTERPOLATIONS),
            "gradient_scale": st.sampled_from(["pool", "live"]),
            "edge_gradient": st.sampled_from(["detached", "implicit"]),
            "bce_weight": st.sampled_from([0.0, 0.5, 2.0]),
            "pauc_weight": st.sampled_from([0.0, 0.25, 1.0]),
            "weight_scale": st.sampled_from(["unit", "explained"]),
        },
    )
    chosen = {**draw(bands()), **draw(link_options()), **draw(others)}
    if chosen.get("weight_scale") == "explained" and not chosen.get("bce_weight"):
        chosen["bce_weight"] = 0.5  # it needs one
    return {**chosen, **draw(precision_options(chosen.get("beta", 0.005)))}


@st.composite
def precision_options(draw, beta: float):
    """Nothing, or a precision and a base rate by which a band may end beyond `beta`."""
    if beta == 1 or draw(st.integers(0, 3)) > 0:
        return {}
    widest = beta + (1 - beta) * draw(st.sampled_from([0.1, 0.5, 0.75]))
    rate = draw(st.sampled_from([0.001, 0.25, 0.5]))
    precision = rate / (rate + (1 - rate) * widest)
    return {"budget_basis": "precision", "precision": precision, "base_rate": rate}


# --- batches ---


def target_lists(count: int, num_classes: int, ignore_index: int):
    """Mixed batches mostly, with one ignored row in ten or so; one-class and all-ignored ones."""
    present = list(range(max(num_classes, 2)))
    choices = [*present * (8 // len(present)), ignore_index]
    # Lists that the engine draws repeat one target more often than not; seeded ones are mixed.
    drawn = st.lists(st.sampled_from(choices), min_size=count, max_size=count)
    seeded = SEEDS.map(lambda seed: random.Random(seed).choices(choices, k=count))
    one_class = st.sampled_from(present).map(lambda c: [c] * count)
    all_ignored = st.just([ignore_index] * count)
    return in_shares((seeded, 6), (drawn, 2), (one_class, 1), (all_ignored, 1))


def iid_masks(count: int):
    return st.one_of(st.none(), st.lists(st.booleans(), min_size=count, max_size=count))


def weight_lists(count: int):
    """Zeros included. Multiples of 1/8: every dtype holds them."""
    weight = st.integers(0, 24).map(lambda k: k / 8)
    return st.one_of(st.none(), st.lists(weight, min_size=count, max_size=count))


@st.composite
def poison(draw, rows: list[list[float]]):
    """Some logits of the batch replaced by nan or an infinity."""
    cells = [(i, c) for i, row in enumerate(rows) for c in range(len(row))]
    if not cells:
        return rows
    rows = [list(row) for row in rows]
    for i, c in draw(st.lists(st.sampled_from(cells), min_size=1, max_size=3)):
        rows[i][c] = draw(st.sampled_from([float("nan"), float("inf"), float("-inf")]))
    return rows


@st.composite
def batches(draw, num_classes: int, dtype: str, ignore_index: int, poisonable: bool = True):
    # A class needs several negatives to be valid, so that full batches are the rule.
    count = draw(in_shares((st.integers(12, MAX_ROWS), 3), (st.integers(0, MAX_ROWS), 1)))
    flat = round_to(draw(raw_scores(count * num_classes)), dtype)
    rows = [flat[i * num_classes : (i + 1) * num_classes] for i in range(count)]
    if poisonable and draw(st.integers(0, 9)) == 9:
        rows = draw(poison(rows))
    return Batch(
        rows,
        draw(target_lists(count, num_classes, ignore_index)),
        draw(iid_masks(count)),
        draw(weight_lists(count)),
        draw(st.booleans()),
    )


@st.composite
def problems(draw, dtypes=tuple(DTYPES), poisonable: bool = True, min_batches=1, min_queue=0):
    """1 to 4 batches in sequence, with the options of a loss; the queue is small enough to wrap."""
    num_classes = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(dtypes))
    chosen = draw(options())
    ignore_index = chosen.get("ignore_index", -100)
    batch = batches(num_classes, dtype, ignore_index, poisonable)
    steps = draw(st.integers(min_batches, 4))
    return Problem(
        num_classes,
        draw(st.integers(min_queue, MAX_QUEUE)),
        dtype,
        chosen,
        draw(st.lists(batch, min_size=steps, max_size=steps)),
    )
