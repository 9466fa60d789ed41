"""What the guide says is so: its Python runs, its links lead somewhere, its claims hold."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

import pauc
from pauc import PAUCAtBudgetLoss, PAUCConfig, PAUCSchedule

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pauc import plot

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide.md"


def test_the_guides_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert blocks
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), namespace)
    plt.close("all")


@pytest.mark.parametrize("page", [ROOT / "README.md", GUIDE], ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in anchors, link


def test_every_option_and_example_that_the_guide_names_is_there():
    text = GUIDE.read_text()
    known = {
        *PAUCConfig._fields,
        *inspect.signature(PAUCAtBudgetLoss).parameters,
        *inspect.signature(PAUCSchedule).parameters,
        *inspect.signature(pauc.BandSampler).parameters,
        *inspect.signature(pauc.metrics.partial_auc).parameters,
        *inspect.signature(PAUCAtBudgetLoss.forward).parameters,
        *inspect.signature(plot.roc).parameters,
    }
    ours = re.sub(r"`imbalanced_losses\.[^`]*`|LibAUC `[^`]*`|scikit-learn `[^`]*`", "", text)
    ours = re.sub(r"`BCEWithLogitsLoss\(.*?\)`", "", ours)
    named = set(re.findall(r"[`( ](\w+)=", "\n".join(re.findall(r"`[^`\n]*`", ours))))
    assert len(named) > 20
    assert named <= known, named - known
    for file in re.findall(r"`(?:examples/)?(\w+\.py)`", text):
        assert (ROOT / "examples" / file).exists(), file


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
