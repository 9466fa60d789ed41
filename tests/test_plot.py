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

from pauc import FPRMonitor, PAUCAtBudgetLoss, band_edges
from pauc.intervals import tpr_at_fpr_interval
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


def test_a_confidence_is_a_ribbon_in_the_colour_of_its_curve():
    scores, targets = rows_like()
    ax = plot.roc({"a": scores, "b": -scores}, targets, 0.05, confidence=0.9)
    assert len(ax.collections) == 2
    for ribbon, curve in zip(ax.collections, ax.get_lines()[::2], strict=True):
        assert matplotlib.colors.to_hex(ribbon.get_facecolor()[0]).upper() == curve.get_color()
    corners = np.asarray(ax.collections[0].get_paths()[0].vertices)
    at = np.unique(corners[:, 0])
    assert at[[0, -1]] == pytest.approx([1 / 2000, 1])
    middle = at[len(at) // 2]
    ends = np.unique(corners[corners[:, 0] == middle, 1])
    slow = tpr_at_fpr_interval(scores, targets, float(middle), confidence=0.9)
    assert ends == pytest.approx([float(slow.low), float(slow.high)], abs=0.03)
    assert not plot.roc(scores, targets, 0.05).collections


def classes_like(rows=600):
    g = torch.Generator().manual_seed(1)
    targets = torch.arange(rows) % 3
    scores = torch.randn(rows, 3, generator=g) + 2 * torch.nn.functional.one_hot(targets, 3)
    return scores, targets


def test_each_class_against_all_others_has_a_curve():
    scores, targets = classes_like()
    targets[5] = -100
    names = ["cat", "dog", "cow"]
    ax = plot.roc(scores, targets, 0.1, class_names=names)
    shown = [text.split(":")[0] for text in legend_of(ax)[1:]]
    assert shown == names
    kept = targets != -100
    for c, curve in enumerate(ax.get_lines()[::2]):
        tpr = tpr_at_fpr(scores[kept, c], (targets[kept] == c).long(), 0.1)
        assert height_at(curve, 0.1) == pytest.approx(float(tpr))
    one_hot = torch.nn.functional.one_hot(targets.clamp(min=0), 3)
    one_hot[5] = -100
    same = plot.roc({"m": scores}, one_hot, 0.1)
    assert [t.split(":")[0] for t in legend_of(same)[1:]] == [f"m, class {c}" for c in range(3)]
    for one, other in zip(ax.get_lines(), same.get_lines(), strict=True):
        assert np.array_equal(one.get_ydata(), other.get_ydata())


def test_a_class_without_positives_is_left_out_with_a_warning():
    scores, targets = classes_like()
    targets[targets == 1] = 0
    with pytest.warns(UserWarning, match="not drawn, without both classes: class 1"):
        ax = plot.roc(scores, targets, 0.1)
    assert [text.split(":")[0] for text in legend_of(ax)[1:]] == ["class 0", "class 2"]
    with pytest.warns(UserWarning, match="class 1"):
        figure = plot.classes(scores, targets, 0.1, thresholds=[1, 2, 3])
    assert [ax.get_title() for ax in figure.axes] == ["class 0", "class 2"]
    assert legend_of(figure.axes[1])[-1].startswith("threshold 3: FPR")


def test_thresholds_are_lines_with_what_they_do():
    scores, targets = rows_like(ties=True)
    ax = plot.score_histogram(scores, targets, 0.05, thresholds={"shipped": 2.0, "next": 2.5})
    lines = {line.get_label(): line.get_xdata()[0] for line in ax.get_lines()[2:]}
    for (label, at), (name, value) in zip(
        lines.items(), {"shipped": 2.0, "next": 2.5}.items(), strict=True
    ):
        fpr, tpr = (float((scores[targets == c] > value).double().mean()) for c in (0, 1))
        assert (label, at) == (f"{name} {value:g}: FPR {fpr:.3g}, TPR {tpr:.3g}", value)


def test_classes_stand_side_by_side():
    scores, targets = classes_like()
    figure = plot.classes(scores, targets, 0.1, class_names=["a", "b", "c"], bins=20)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c"]
    for c, ax in enumerate(figure.axes):
        alone = plot.score_histogram(scores[:, c], (targets == c).long(), 0.1, bins=20)
        assert legend_of(ax) == legend_of(alone)
        for one, other in zip(ax.patches[1:], alone.patches[1:], strict=True):
            assert np.array_equal(one.get_xy(), other.get_xy())


def test_a_dashboard_has_every_diagnostic_once():
    loss_fn = PAUCAtBudgetLoss(2, beta=0.5, queue_size=64)
    torch.manual_seed(0)
    history = [
        loss_fn(torch.randn(40, 2), torch.arange(40) % 2, return_diagnostics=True)[1]
        for _ in range(3)
    ]
    figure = plot.dashboard(history, class_index=1, beta=0.5, steps=[5, 6, 7])
    drawn = [line.get_label() for ax in figure.axes for line in ax.get_lines()]
    named = [label for label in drawn if label in history[0]]
    assert sorted(named) == sorted(["t_alpha", "t_beta", *set(history[0]) - {"t_alpha", "t_beta"}])
    assert [ax.get_lines()[0].get_xdata().tolist() for ax in figure.axes] == [[5, 6, 7]] * len(
        figure.axes
    )
    for ax in figure.axes:
        key = ax.get_lines()[0].get_label()
        values = [float(entry[key][1]) for entry in history]
        assert ax.get_lines()[0].get_ydata() == pytest.approx(values, nan_ok=True)


def test_monitoring_draws_rate_interval_budget_and_alarm():
    monitor, history = FPRMonitor(0.01, window=2000), []
    for alerts in (9, 12, 8, 60, 70):
        monitor.update(alerts, 1000)
        history.append(monitor.status())
    ax = plot.monitoring(history, 0.01)
    rate = ax.get_lines()[0]
    assert rate.get_xdata().tolist() == [1000, 2000, 3000, 4000, 5000]
    assert rate.get_ydata().tolist() == [status.estimate for status in history]
    corners = {tuple(point) for point in ax.collections[0].get_paths()[0].vertices}
    assert {(s.rows, end) for s in history for end in (s.low, s.high)} <= corners
    assert legend_of(ax)[2:] == ["budget 0.01", "alarm after 4,000 rows"]
    assert 0.01 < ax.get_ylim()[1] < 0.2
    assert legend_of(plot.monitoring(history[:1], 0.01))[2:] == ["budget 0.01"]


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
        (lambda: plot.roc(SCORES, TARGETS, 0.1, confidence=1), "confidence must be above 0"),
        (lambda: plot.roc(SCORES[:, None].expand(-1, 2), TARGETS, 0.1, class_names="a"), "be 2 na"),
        (
            lambda: plot.roc(SCORES[:, None].expand(-1, 2), TARGETS + 1, 0.1),
            "targets must be whole",
        ),
        (lambda: plot.score_histogram(SCORES.expand(2, -1).T, TARGETS, 0.1), "see pauc.plot.cl"),
        (lambda: plot.classes(SCORES, TARGETS, 0.1), "see pauc.plot.score_histogram"),
        (
            lambda: plot.classes(SCORES.expand(2, -1).T, TARGETS, 0.1, thresholds=[1]),
            "be 2 numbers",
        ),
        (lambda: plot.dashboard([]), "at least one entry, got none"),
        (lambda: plot.dashboard([{"a": 1}, {"b": 1}]), "a key that all entries share"),
        (lambda: plot.monitoring([], 0.1), "at least one entry, got none"),
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
