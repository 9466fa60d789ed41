"""The pictures, read back from the axes: what lines, bars and legends hold, never how they look."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pauc import PAUCAtBudgetLoss, band_edges
from pauc.metrics import tpr_at_fpr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pauc import plot

OKABE_ITO = {
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _close_figures():
    style = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == style, "a picture changed the global style"
    plt.close("all")


def rows_like(positives=40, negatives=2000, seed=0, ties=False):
    g = torch.Generator().manual_seed(seed)
    targets = torch.cat([torch.ones(positives), torch.zeros(negatives)]).long()
    scores = torch.randn(positives + negatives, generator=g) + 1.5 * targets
    return (scores * 2).round() / 2 if ties else scores, targets


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def height_at(line, x):
    """The value of a staircase at x: the last point that is not to its right."""
    xs, ys = (np.asarray(data) for data in line.get_data())
    assert line.get_drawstyle() == "steps-post"
    return ys[np.searchsorted(xs, x, side="right") - 1]


@settings(max_examples=40)
@given(st.integers(0, 50), st.booleans(), st.floats(0.002, 0.9))
def test_the_curve_is_the_tpr_that_can_be_deployed_at_every_fpr(seed, ties, beta):
    scores, targets = rows_like(30, 500, seed, ties)
    ax = plot.roc(scores, targets, beta)
    curve = ax.get_lines()[0]
    left = min(1 / 500, beta / 10)
    assert ax.get_xlim() == pytest.approx((left, 1))
    for fpr in np.geomspace(left * 1.0001, 1, 60):
        assert height_at(curve, fpr) == pytest.approx(float(tpr_at_fpr(scores, targets, fpr)))
    plt.close("all")


def test_the_curve_has_no_more_points_than_positives_have_scores():
    scores, targets = rows_like(40, 20_000)
    assert len(plot.roc(scores, targets, 0.01).get_lines()[0].get_xdata()) <= 42


def test_roc_marks_the_budget_shades_the_band_and_names_the_models():
    scores, targets = rows_like()
    models = {"first": scores, "second": -scores}
    ax = plot.roc(models, targets, 0.05, alpha=0.01)
    tprs = [float(tpr_at_fpr(s, targets, 0.05)) for s in models.values()]
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [
        (0.05, pytest.approx(tpr)) for tpr in tprs
    ]
    assert legend_of(ax) == [
        "band, FPR 0.01 to 0.05",
        f"first: TPR {tprs[0]:.3f} at FPR 0.05",
        f"second: TPR {tprs[1]:.3f} at FPR 0.05",
    ]
    (band,) = ax.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.01, 0.05))
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "false-positive rate (log scale)"
    assert ax.get_ylabel() == "true-positive rate"


def test_models_differ_in_colour_and_dash_and_colours_are_those_of_okabe_and_ito():
    scores, targets = rows_like()
    ax = plot.roc({str(n): scores for n in range(6)}, targets, 0.05)
    curves = [line for line in ax.get_lines() if line.get_marker() != "o"]
    colours = [line.get_color().lower() for line in curves]
    assert len(set(colours)) == 6
    assert set(colours) <= OKABE_ITO
    assert all(a.get_linestyle() != b.get_linestyle() for a, b in pairwise(curves))
    others = [*plot.score_histogram(scores, targets, 0.05).patches]
    drawn = {matplotlib.colors.to_hex(p.get_edgecolor()) for p in others[1:]}
    assert drawn <= OKABE_ITO
    assert len(drawn) == 2


def test_an_interval_is_a_ribbon_in_the_colour_of_its_curve():
    scores, targets = rows_like()
    at, low, high = torch.tensor([0.01, 0.05]), np.array([0.2, 0.4]), [0.5, 0.8]
    ax = plot.roc({"a": scores, "b": scores}, targets, 0.05, intervals={"b": (at, low, high)})
    (ribbon,) = ax.collections
    corners = {tuple(np.round(point, 6)) for point in ribbon.get_paths()[0].vertices}
    assert corners == {(0.01, 0.2), (0.05, 0.4), (0.05, 0.8), (0.01, 0.5)}
    colour = matplotlib.colors.to_hex(ribbon.get_facecolor()[0]).upper()
    assert colour == ax.get_lines()[2].get_color()


@pytest.mark.parametrize("kind", ["numpy", "list", "pandas"])
def test_arrays_and_columns_give_the_picture_of_the_tensors(kind):
    scores, targets = rows_like()
    held = {
        "numpy": lambda t: t.numpy(),
        "list": lambda t: t.tolist(),
        "pandas": lambda t: pytest.importorskip("pandas").Series(
            t.numpy(), index=range(9000, 6960, -1)
        ),
    }[kind]
    for draw in (plot.roc, plot.score_histogram):
        expected, found = draw(scores, targets, 0.05), draw(held(scores), held(targets), 0.05)
        for own, other in zip(found.get_lines(), expected.get_lines(), strict=True):
            assert own.get_xydata().tolist() == other.get_xydata().tolist()
        assert legend_of(found) == legend_of(expected)
    models = {"a": held(scores), "b": scores}
    curves = plot.roc(models, held(targets), 0.05).get_lines()
    assert curves[0].get_xydata().tolist() == curves[2].get_xydata().tolist()


def test_ignored_rows_change_no_picture():
    scores, targets = rows_like()
    padded = torch.cat([scores, torch.full((5,), torch.nan)])
    labels = torch.cat([targets, torch.full((5,), -100)])
    for draw in (plot.roc, plot.score_histogram):
        plain, ignoring = draw(scores, targets, 0.05), draw(padded, labels, 0.05)
        assert legend_of(plain) == legend_of(ignoring)
        assert plain.get_xlim() == ignoring.get_xlim()


@settings(max_examples=40)
@given(st.integers(0, 50), st.integers(1, 80), st.booleans())
def test_bars_are_shares_of_each_class_and_edges_are_those_of_the_loss(seed, bins, ties):
    scores, targets = rows_like(30, 500, seed, ties)
    ax = plot.score_histogram(scores.unsqueeze(1), targets, 0.05, alpha=0.01, bins=bins)
    lowest, highest = float(scores.min()), float(scores.max())
    for outline, members in zip(ax.patches[1:], (targets == 0, targets == 1), strict=True):
        expected, _ = np.histogram(scores[members].double().numpy(), bins, (lowest, highest))
        drawn = outline.get_xy()[1:-1:2, 1]  # the outline visits each bar's left and right top
        assert drawn[:bins] == pytest.approx(expected / int(members.sum()))
    edges = band_edges(scores, targets == 0, 0.01, 0.05)
    drawn = [line.get_xdata()[0] for line in ax.get_lines()]
    assert drawn == pytest.approx([float(edges.t_beta), float(edges.t_alpha)])
    assert legend_of(ax)[:3] == ["band, FPR 0.01 to 0.05", "500 negatives", "30 positives"]
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "score")
    assert "share of the class" in ax.get_ylabel()
    plt.close("all")


def test_diagnostics_over_training_are_those_that_the_loss_returned():
    loss_fn = PAUCAtBudgetLoss(2, beta=0.5, queue_size=64)
    history = []
    for step in range(5):
        torch.manual_seed(step)
        targets = torch.arange(40) % 2
        if step == 2:
            targets[:] = 0  # no positives of class 1 in the batch, but some in the queue
        history.append(loss_fn(torch.randn(40, 2), targets, return_diagnostics=True)[1])
    for key in ("pauc", "band_neg_count", "tau_eff"):
        ax = plot.training(history, key, class_index=1, steps=[0, 10, 20, 30, 40])
        line = ax.get_lines()[0]
        assert line.get_xdata().tolist() == [0, 10, 20, 30, 40]
        assert line.get_ydata() == pytest.approx([float(s[key][1]) for s in history], nan_ok=True)
        assert ax.get_xlabel() == "training step"
    as_arrays = {"pauc": torch.stack([s["pauc"] for s in history])}
    one, other = plot.training(history, "pauc"), plot.training(as_arrays, "pauc")
    assert one.get_lines()[0].get_ydata().tolist() == other.get_lines()[0].get_ydata().tolist()


def test_edges_are_two_lines_and_a_gap_stays_a_gap():
    history = [
        {"t_alpha": torch.tensor([a]), "t_beta": torch.tensor([b])}
        for a, b in ((3.0, 1.0), (torch.nan, torch.nan), (4.0, 2.0))
    ]
    ax = plot.training(history, "edges")
    assert legend_of(ax) == ["t_alpha", "t_beta"]
    high, low = (line.get_ydata() for line in ax.get_lines())
    assert high == pytest.approx([3, np.nan, 4], nan_ok=True)
    assert low == pytest.approx([1, np.nan, 2], nan_ok=True)
    assert ax.get_ylabel() == "score at the band's edges"


def test_counts_and_realised_fpr_have_a_line_to_be_compared_with():
    history = {"band_neg_count": [3, 20], "realised_fpr": [0.004, 0.006], "lr": [1, 2]}
    starved = plot.training(history, "band_neg_count")
    assert legend_of(starved) == ["band_neg_count", "starved below 10"]
    assert list(starved.get_lines()[1].get_ydata()) == [10, 10]
    realised = plot.training(history, "realised_fpr", beta=0.005)
    assert legend_of(realised) == ["realised_fpr", "beta = 0.005"]
    assert list(realised.get_lines()[1].get_ydata()) == [0.005, 0.005]
    own = plot.training(history, "lr")
    assert own.get_ylabel() == "lr"
    assert own.get_legend() is None


def test_everything_draws_into_the_axes_that_it_is_given():
    scores, targets = rows_like()
    figure, axes = plt.subplots(1, 3)
    drawn = [
        plot.roc(scores, targets, 0.05, ax=axes[0]),
        plot.score_histogram(scores, targets, 0.05, ax=axes[1]),
        plot.training({"pauc": [0.1]}, "pauc", ax=axes[2]),
    ]
    assert drawn == list(axes)
    assert plt.get_fignums() == [figure.number]


SCORES, TARGETS = rows_like()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.roc({}, TARGETS, 0.05), "scores must hold at least one model"),
        (lambda: plot.roc(SCORES, TARGETS, 0.0), "alpha and beta"),
        (lambda: plot.roc(SCORES, TARGETS, 0.1, intervals={"x": ((), (), ())}), "got \\['x'\\]"),
        (lambda: plot.roc(SCORES, TARGETS * 0, 0.1), "both classes"),
        (lambda: plot.score_histogram(SCORES, TARGETS, 0.1, bins=0), "bins must be an integer"),
        (lambda: plot.score_histogram(SCORES / 0, TARGETS, 0.1), "scores must be finite"),
        (lambda: plot.training([], "pauc"), "at least one entry, got none"),
        (lambda: plot.training({"pauc": []}, "pauc"), "got none for 'pauc'"),
        (lambda: plot.training([{"pauc": 1}], "loss"), "one has \\['pauc'\\], got 'loss'"),
        (lambda: plot.training([{"pauc": 1}], "pauc", class_index=1), "below 1 for 'pauc'"),
        (lambda: plot.training([{"pauc": 1}], "pauc", steps=[1, 2]), "each of 1, got 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_matplotlib_is_imported_by_the_pictures_alone_and_missed_with_its_cure():
    script = (
        "import sys; sys.modules['matplotlib'] = None; import pauc\n"
        "try:\n    import pauc.plot\nexcept ImportError as error:\n    print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip().endswith("Cure: pip install 'torch-pauc[plot]'")
