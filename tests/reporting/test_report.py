"""The numbers of a report are those of the public functions, and its page can be read."""

from __future__ import annotations

import io
import itertools
import math
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from torch import Tensor

import pauc
from pauc.__main__ import main
from pauc.intervals import bootstrap_interval, partial_auc_interval, wilson_interval
from pauc.metrics import tpr_at_fpr
from pauc.reporting import Report
from pauc.reporting.report import _progress

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BUDGET = 0.01
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def rows_like(negatives: int = 4000, positives: int = 200) -> tuple[dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(0)
    targets = torch.cat([torch.zeros(negatives), torch.ones(positives)]).long()
    noise = torch.randn(3, len(targets), generator=g)
    old, new = (noise[0] + noise[k] + (1.5 + k) * targets for k in (1, 2))
    return {"old": old, "new <b>": new}, targets


SCORES, TARGETS = rows_like()


@pytest.fixture(scope="module")
def found() -> Report:
    groups = [(1, "south")[k % 3 == 0] for k in range(len(TARGETS))]
    return pauc.report(
        SCORES, TARGETS, BUDGET, groups=groups, rows_a_day=1000, positive_rate=0.02, title="A & B"
    )


# --- numbers


def test_rates_and_thresholds_are_those_of_the_public_functions(found: Report) -> None:
    assert found.fprs == (0.001, 0.005, 0.01, 0.02, 0.1)
    assert (found.negatives, found.positives, found.ignored) == (4000, 200, 0)
    for model, scores in zip(found.models, SCORES.values(), strict=True):
        assert torch.equal(model.tpr.estimate, tpr_at_fpr(scores, TARGETS, found.fprs))
        assert model.point == pauc.select_threshold(scores, TARGETS, BUDGET, confidence=0.95)
        caught = int((scores[TARGETS == 1] > model.point.threshold).sum())
        assert model.caught == wilson_interval(caught, 200)
        assert model.partial_auc == partial_auc_interval(scores, TARGETS, beta=BUDGET)
        assert bool((model.tpr.low <= model.tpr.estimate).all())
        assert bool((model.tpr.estimate <= model.tpr.high).all())


def test_differences_are_those_of_the_paired_bootstrap(found: Report) -> None:
    (one,) = found.differences
    assert (one.name, one.against) == ("new <b>", "old")

    def difference(s: Tensor, t: Tensor) -> Tensor:
        return tpr_at_fpr(s[:, 1], t, BUDGET) - tpr_at_fpr(s[:, 0], t, BUDGET)

    slow = bootstrap_interval(difference, torch.stack([*SCORES.values()], 1), TARGETS)
    for fast, expected in zip(one.tpr, slow, strict=True):
        assert float(fast) == pytest.approx(float(expected), abs=0.03)


def test_costs_are_what_so_many_rows_bring(found: Report) -> None:
    for model, cost in zip(found.models, found.costs, strict=True):
        assert cost.false_alarms == pytest.approx(980 * model.point.fpr)
        assert cost.caught == pytest.approx(20 * model.point.tpr)
        assert cost.caught + cost.missed == pytest.approx(20)
        assert cost.alerts == pytest.approx(cost.false_alarms + cost.caught)
        assert cost.precision == pytest.approx(cost.caught / cost.alerts)


def test_needs_are_what_select_threshold_asks_for(found: Report) -> None:
    assert [need.budget for need in found.needs] == [0.01, 0.005, 0.002, 0.001, 0.01, 0.01]
    for need in found.needs:
        rows = torch.arange(float(need.ample))
        zeros = torch.zeros(need.ample)
        options = {"confidence": need.confidence}
        pauc.select_threshold(rows[: need.fewest], zeros[: need.fewest], need.budget, **options)
        few = need.fewest - 1
        with pytest.raises(ValueError, match=f"at least {need.fewest} negatives"):
            pauc.select_threshold(rows[:few], zeros[:few], need.budget, **options)
        point = pauc.select_threshold(rows, zeros, need.budget, **options)
        assert 0.89 * need.budget < point.fpr < 0.91 * need.budget


def test_groups_are_counted_one_by_one(found: Report) -> None:
    assert found.groups is not None
    for model, scores in zip(found.models, SCORES.values(), strict=True):
        count: Counter[tuple[str, int, bool]] = Counter()
        for k, (score, target) in enumerate(zip(scores.tolist(), TARGETS.tolist(), strict=True)):
            name = ("1", "south")[k % 3 == 0]
            count[name, target, score > model.point.threshold] += 1
        for group in found.groups[model.name]:
            sizes = [count[group.name, c, True] + count[group.name, c, False] for c in (0, 1)]
            assert [group.negatives, group.positives] == sizes
            assert group.fpr == wilson_interval(count[group.name, 0, True], sizes[0])
            assert group.tpr == wilson_interval(count[group.name, 1, True], sizes[1])
        assert [group.name for group in found.groups[model.name]] == ["1", "south"]


@pytest.mark.parametrize("kind", ["tensor", "array", "list", "pandas", "polars"])
def test_whatever_holds_the_rows_the_report_is_the_same(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    targets = (torch.rand(3000, generator=g) < 0.1).long()
    first = torch.randn(3000, generator=g) + 2 * targets
    second = first + torch.randn(3000, generator=g)
    expected = str(pauc.report({"first": first, "second": second}, targets, 0.05))
    assert str(pauc.report(*_rows_in(kind, first, second, targets), 0.05)) == expected


def _rows_in(kind: str, first: Tensor, second: Tensor, targets: Tensor) -> tuple[Any, Any]:
    columns = {"first": first, "second": second}
    if kind == "tensor":
        return columns, targets
    if kind == "list":
        return {name: column.tolist() for name, column in columns.items()}, targets.tolist()
    arrays = {name: column.numpy() for name, column in columns.items()}
    if kind == "array":
        return arrays, targets.numpy()
    library = pytest.importorskip(kind)
    return library.DataFrame(arrays), library.Series(targets.numpy())


def test_ignored_rows_change_no_number_but_their_own() -> None:
    plain = pauc.report(SCORES["old"], TARGETS, BUDGET)
    padded = torch.cat([torch.full((3,), math.nan), SCORES["old"]]).unsqueeze(1)
    labels = torch.cat([torch.full((3,), -100), TARGETS])
    other = pauc.report(padded, labels, BUDGET, groups=["a"] * len(labels))
    assert (plain.ignored, other.ignored) == (0, 3)
    assert str(plain.models) == str(other.models)
    assert other.groups is not None
    assert other.groups["model"][0].negatives == 4000
    assert "3 rows without a label are left out." in str(other)
    assert other.html()


def test_without_negatives_enough_there_is_no_promise_and_the_page_says_so() -> None:
    few = torch.cat([SCORES["old"][:200], SCORES["old"][-50:]])
    labels = torch.cat([TARGETS[:200], TARGETS[-50:]])
    found = pauc.report(few, labels, BUDGET)
    assert not found.promised
    assert found.models[0].point == pauc.select_threshold(few, labels, BUDGET)
    assert "No promise" in str(found)
    assert "takes 299 negatives, and there are 200" in str(found).replace("\n", " ")
    exactly = torch.cat([torch.zeros(299), torch.ones(9)]).long()
    assert pauc.report(torch.arange(308.0), exactly, BUDGET).promised


# --- text and page


class Checked(HTMLParser):
    """Tags that are opened and closed in order, no script, and no address to load from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object", "base")
        for name, value in attrs:
            assert name not in ("src", "srcset")
            assert not name.startswith("on")
            assert name.startswith("xmlns") or "//" not in (value or ""), (name, value)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.pop()

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


HEADINGS = [
    "Rows", "What is caught", "Differences", "The threshold", "What a day costs",
    "What a promise takes", "By group: old", "By group: new <b>", "What this does not know",
]  # fmt: skip


def test_text_and_page_have_the_same_sections_and_sentences(found: Report) -> None:
    page = found.html()
    checked = Checked(page)
    assert checked.headings == HEADINGS
    lines = str(found).splitlines()
    ruled = [line for line, rule in itertools.pairwise(lines) if line and rule == "-" * len(line)]
    assert ruled == HEADINGS
    assert max(map(len, lines)) <= 100
    assert "A &amp; B" in page
    assert "new <b>" not in page
    assert page.count("<svg") == 3
    point = found.models[0].point
    for text in (page, str(found)):
        assert f"{point.threshold:.9g}" in text
        assert "watch the threshold with pauc.FPRMonitor(0.01)" in text.replace("\n", " ")


def test_the_same_report_is_the_same_page(found: Report) -> None:
    assert found.html() == found._repr_html_()


def test_infinite_scores_and_many_models_are_told_of() -> None:
    scores = {f"m{k}": SCORES["old"].clone() for k in range(8)}
    scores["m1"][0] = math.inf
    page = pauc.report(scores, TARGETS, BUDGET).html()
    assert "m1: not drawn, 1 scores are infinite." in page
    assert "The first 6 models; 2 are left out." in page
    Checked(page)


def test_many_groups_are_cut_to_the_largest() -> None:
    names = [f"g{k % 30}" for k in range(len(TARGETS))]
    text = str(pauc.report(SCORES["old"], TARGETS, BUDGET, groups=names))
    assert "The largest 20 of 30 groups." in text


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pauc.report({}, TARGETS, 0.1), ValueError, "at least one model"),
        (lambda: pauc.report(SCORES, TARGETS, 0.0), ValueError, "budget must be above 0"),
        (lambda: pauc.report(SCORES, TARGETS, "x"), TypeError, "budget must be a real number"),
        (lambda: pauc.report(SCORES, TARGETS, 0.1, confidence=0.4), ValueError, "at least 0.5"),
        (lambda: pauc.report(SCORES, TARGETS, 0.1, confidence=0.99999), ValueError, "0.99998 for"),
        (lambda: pauc.report(SCORES, TARGETS, 0.1, positive_rate=2), ValueError, "positive_rate"),
        (lambda: pauc.report(SCORES, TARGETS, 0.1, groups=["a"]), ValueError, "groups must have"),
        (lambda: pauc.report(SCORES, TARGETS[1:], 0.1), ValueError, "of 'old': scores and targets"),
        (lambda: pauc.report(SCORES, TARGETS * 0, 0.1), ValueError, "of 'old': .*both classes"),
        (lambda: pauc.report(SCORES, TARGETS, 0.1, fprs=[2]), ValueError, r"in \[0, 1\]"),
        (lambda: pauc.report(SCORES, TARGETS, 0.1, rows_a_day=-1), ValueError, "rows_a_day"),
    ],
)
def test_bad_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow  # a bar comes after a second
def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch) -> None:
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert [time.sleep(0.6) or k for k in _progress()(range(3))] == [0, 1, 2]
        assert ("bootstrap" in stream.getvalue()) == shown


# --- the command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    rows = zip(TARGETS.tolist(), SCORES["old"].tolist(), strict=True)
    lines = [f"{target},{score!r},{k % 2}\n" for k, (target, score) in enumerate(rows)]
    path.write_text("label,score,site\n" + "".join(lines))
    return path


def test_the_command_prints_the_report_and_writes_the_page(file, capsys, monkeypatch) -> None:
    monkeypatch.chdir(file.parent)
    assert main(["report", str(file), "--budget", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("scores.csv at an FPR of 1 %\n")
    assert "target: column 'label', guessed by its name." in printed
    assert printed.endswith("With pictures: scores-report.html\n")
    Checked((file.parent / "scores-report.html").read_text())
    point = pauc.select_threshold(SCORES["old"], TARGETS, 0.01, confidence=0.95)
    assert f"{point.threshold:.9g}" in printed


def test_the_command_takes_every_option(file, capsys) -> None:
    page = file.parent / "p.html"
    options = (
        "--budget 0.02 --confidence 0.9 --target label --scores score --group site --fprs 0.1 0.3 "
        f"--rows-a-day 500 --positive-rate 0.5 --html {page}"
    )
    assert main(["report", str(file), *options.split()]) == 0
    printed = capsys.readouterr().out
    for expected in ("FPR 30", "By group: score", "500 rows a day with 50", "With 90"):
        assert expected in printed
    assert page.exists()
    assert main(["report", str(file), "--budget", "0.02", "--text"]) == 0
    assert "With pictures" not in capsys.readouterr().out


def test_the_command_says_what_is_wrong_and_returns_2(file, capsys) -> None:
    file.write_text(file.read_text() + "1,oops,0\n")
    assert main(["report", str(file), "--budget", "0.01"]) == 2
    assert "line 4202, column 'score': expected a number, got 'oops'" in capsys.readouterr().err
    assert main(["report", str(file.parent / "none.csv"), "--budget", "0.01"]) == 2
    assert "none.csv" in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_runs_and_text_needs_no_matplotlib(file) -> None:
    script = (
        "import sys, runpy; sys.modules['matplotlib'] = None\n"
        f"sys.argv = ['pauc', 'report', {str(file)!r}, '--budget', '0.01', *sys.argv[1:]]\n"
        "runpy.run_module('pauc', run_name='__main__')"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run([*command, "--text"], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "The threshold" in ran.stdout
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert "Cure: pip install 'torch-pauc[plot]'" in ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_shows_the_page(found: Report, tmp_path: Path) -> None:
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    found.save(page)
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"]
    browser.append(f"--user-data-dir={tmp_path / 'profile'}")

    def run(*options: str) -> str:
        command = [*browser, *options, page.as_uri()]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=180)
        return ran.stdout

    run("--window-size=1100,3600", "--hide-scrollbars", f"--screenshot={shot}")
    pixels = (255 * plt.imread(shot)[..., :3]).round().astype(int)
    assert pixels.shape == (3600, 1100, 3)
    for colour in ("#0072B2", "#D55E00", "#009E73"):  # both curves, and the threshold
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (pixels == wanted).all(axis=2).sum() > 200, colour
    dom = run("--dump-dom")
    assert re.findall(r"<h2>([^<]*)", dom)[0] == "Rows"
    assert dom.count("<svg") == 3
