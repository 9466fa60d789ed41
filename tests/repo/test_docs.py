"""What the documentation says is so: its Python runs, its links lead somewhere, its claims hold."""

from __future__ import annotations

import inspect
import re
from fnmatch import fnmatch
from pathlib import Path

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

import pauc
from pauc import PAUCAtBudgetLoss, PAUCConfig, PAUCSchedule
from tests.repo.pages import PAGES, ROOT, python_blocks, run_blocks

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pauc import plot

README = ROOT / "README.md"
PARAMETERS = ROOT / "docs" / "parameters.md"

# Options of torch, LightGBM, XGBoost and other libraries that the pages name.
OF_OTHERS = {
    "create_graph",
    "fullgraph",
    "use_buffers",
    "broadcast_buffers",
    "weights_only",
    "ignore_mismatched_sizes",
    "objective",
    "metric",
    "maximize",
    "early_stopping_rounds",
    "scoring",
    "f_criterion",
    "PAUC_TRITON",
}


def named_keywords(text: str) -> set[str]:
    """Return the keywords that inline code gives to functions of this library."""
    return set(re.findall(r"[`( ](\w+)=", "\n".join(re.findall(r"`[^`\n]*`", text))))


def our_text(page: Path) -> str:
    """Return a page without the first column of the tables of migration: names of others."""
    text = page.read_text()
    return re.sub(r"^\| [^|\n]+ \|", "", text, flags=re.M) if page.stem == "migrate" else text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_pages_python_runs_as_pasted(page):
    torch.manual_seed(0)
    run_blocks(page)
    plt.close("all")


def test_most_pages_have_python_to_run():
    assert len([page for page in PAGES if python_blocks(page)]) >= 6


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    assert links or page.stem in {"sources", "design"}
    for link in links:
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in anchors, link


def test_every_page_is_in_the_contents():
    index = (ROOT / "docs" / "index.md").read_text()
    trees = re.findall(r"```{toctree}\n(?::[^\n]*\n)*\n(.*?)```", index, flags=re.DOTALL)
    listed = "".join(trees).split()
    for page in PAGES:
        assert page.stem == "index" or any(fnmatch(page.stem, name) for name in listed), page


def test_the_table_names_every_option_with_its_default():
    text = PARAMETERS.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, flags=re.MULTILINE))
    for name, default in PAUCConfig()._asdict().items():
        shown = rows[name].strip("` ")
        assert shown == (f'"{default}"' if isinstance(default, str) else str(default))


def test_the_api_page_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    described = set(re.findall(r"^\.\. auto\w+:: pauc\.(\w+)$", text, flags=re.MULTILINE))
    assert set(pauc.__all__) <= described, set(pauc.__all__) - described


def test_every_option_and_example_that_the_pages_name_is_there():
    text = "\n".join(our_text(page) for page in [README, *PAGES])
    known = {
        *PAUCConfig._fields,
        *pauc.RecallAtQuantileConfig._fields,
        *inspect.signature(PAUCAtBudgetLoss).parameters,
        *inspect.signature(PAUCSchedule).parameters,
        *inspect.signature(pauc.BandSampler).parameters,
        *inspect.signature(pauc.BandLoader).parameters,
        *inspect.signature(pauc.BandStream).parameters,
        *inspect.signature(pauc.metrics.partial_auc).parameters,
        *inspect.signature(PAUCAtBudgetLoss.forward).parameters,
        *inspect.signature(plot.roc).parameters,
        *inspect.signature(pauc.boosting.BandObjective).parameters,
        *inspect.signature(pauc.select_threshold).parameters,
        *inspect.signature(pauc.FPRMonitor).parameters,
        *inspect.signature(pauc.budgets.alert_share_from_fpr).parameters,
        *inspect.signature(pauc.torchmetrics.TPRAtFPR).parameters,
        *inspect.signature(pauc.sklearn.BudgetClassifier).parameters,
        *OF_OTHERS,
    }
    named = named_keywords(text)
    assert len(named) > 20
    assert named <= known, named - known
    for file in re.findall(r"`(?:examples/)?(\w+\.py)`", text):
        assert (ROOT / "examples" / file).exists() or list((ROOT / "pauc").rglob(file)), file
    for file in re.findall(r"`((?:examples|benchmarks|tests)/\w+\.py)`", text):
        assert (ROOT / file).exists(), file


def test_bce_is_a_special_case():
    torch.manual_seed(0)
    logits, targets = torch.randn(60, 1), torch.randint(0, 2, (60,))
    loss = PAUCAtBudgetLoss(1, bce_weight=1.0, pauc_weight=0.0)(logits, targets)
    bce = F.binary_cross_entropy_with_logits(logits.squeeze(1), targets.float())
    torch.testing.assert_close(loss, bce)


def test_max_fpr_is_a_special_case():
    torch.manual_seed(0)
    scores, targets = torch.randn(400), torch.randint(0, 2, (400,))
    ours = pauc.metrics.partial_auc(scores, targets, beta=0.1, normalize="mcclish")
    assert ours.item() == pytest.approx(roc_auc_score(targets, scores, max_fpr=0.1))


def test_options_of_imbalanced_losses_have_the_same_names_and_defaults():
    peer = pytest.importorskip("imbalanced_losses", reason="a comparison, not a requirement")
    theirs = inspect.signature(peer.PAUCAtBudgetLoss).parameters
    own = inspect.signature(PAUCAtBudgetLoss).parameters
    for name, parameter in theirs.items():
        if name in PAUCConfig._fields:
            assert getattr(PAUCConfig(), name) == parameter.default, name
        else:
            assert own[name].default == parameter.default, name
    assert list(inspect.signature(peer.PAUCAtBudgetLoss.forward).parameters) == list(
        inspect.signature(PAUCAtBudgetLoss.forward).parameters
    )
    state = set(peer.PAUCAtBudgetLoss(1).state_dict())
    assert not state & set(PAUCAtBudgetLoss(1).state_dict())
    wrapper = inspect.signature(peer.LossWarmupWrapper).parameters
    assert {"warmup_steps", "blend_steps", "temp_start", "temp_end", "temp_decay_steps"} <= set(
        wrapper
    )
