"""The examples with Lightning, Hugging Face, skorch and TensorBoard do what they say.

Runs where the extra `integrations` is installed, and is skipped elsewhere; `.ci/run` installs it.
Every example runs as a person starts it, in a process of its own. Warnings are errors there, but
for IGNORED.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

for library in ("lightning", "skorch", "tensorboard", "tqdm", "transformers"):
    pytest.importorskip(library, reason="needs pip install '.[integrations]'")

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
IGNORED = [
    # Lightning 2.6 flattens its loaders by what torch 2.13 calls deprecated.
    "ignore:`isinstance(treespec:FutureWarning",
    # Its `all_gather` is what torch 2.13 calls deprecated.
    "ignore:torch.distributed.nn.functional.all_gather is deprecated:FutureWarning",
    # It tells that a run resumes in another folder; the example does so to compare the two.
    "ignore:The dirpath has changed:UserWarning",
]
DIAGNOSTICS = {
    "t_alpha", "t_beta", "tau_eff", "pauc", "pauc_var", "band_neg_count", "grad_pos_count",
    "ref_count", "realised_fpr",
}  # fmt: skip


def run(example: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, EXAMPLES / example, "--quick", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONWARNINGS": ",".join(["error", *IGNORED])},
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout


def logged(folder: Path) -> dict[str, list[float]]:
    """Every scalar below a folder, in the order of the steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    return found


@pytest.fixture(autouse=True)
def _examples_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_lightning_resumes_bit_for_bit_and_two_ranks_train_as_one(tmp_path):
    out = run("lightning_module.py", "--folder", str(tmp_path / "one"))
    assert "weights and queue equal in every bit" in out
    run("lightning_module.py", "--ranks", "2", "--folder", str(tmp_path / "two"))
    one, two = (
        torch.load(next((tmp_path / ranks).glob("epochs/epoch=1*.ckpt")), weights_only=True)
        for ranks in ("one", "two")
    )
    # The same rows, in another order: two ranks have two halves of each part of a batch.
    queues = [state["state_dict"]["pauc_loss.queue_targets"].sort().values for state in (one, two)]
    assert one["state_dict"]["pauc_loss.queue_fill"] > 1024
    assert torch.equal(*queues)
    # Weights of order 0.05. Measured: 6e-8 apart, and 0.01 to 0.07 where ranks do not see each
    # other's rows. Adam may blow up other machines' rounding more.
    for name, weight in one["state_dict"].items():
        if name.startswith("net."):
            assert torch.allclose(weight, two["state_dict"][name], atol=1e-5), name
    for ranks in ("one", "two"):
        scalars = logged(tmp_path / ranks / "log")
        assert {f"pauc/{name}" for name in DIAGNOSTICS} <= set(scalars)
        assert len(scalars["val_tpr"]) == 2


def test_lightning_example_would_see_a_queue_that_did_not_resume():
    from covertype import load
    from lightning_module import Aspen, differences

    torch.manual_seed(0)
    data = load(quick=True)
    model, other = Aspen(data), Aspen(data)
    mask = torch.arange(2000) % 2 == 0
    model.pauc_loss(torch.randn(2000, 1), torch.randint(0, 2, (2000,)), iid_mask=mask)
    other.load_state_dict(model.state_dict())
    assert differences(model, other) == []
    other.pauc_loss.reset_queue()
    assert "pauc_loss.queue_fill" in differences(model, other)


def test_hugging_face_trainer_logs_and_resumes_bit_for_bit(tmp_path):
    out = run("hf_trainer.py", "--folder", str(tmp_path / "out"))
    assert "resumed at step 20: weights and queue equal in every bit" in out
    scalars = logged(tmp_path / "out" / "runs")
    assert {f"train/pauc_{name}" for name in DIAGNOSTICS} <= set(scalars)
    assert not {tag for tag in scalars if tag.startswith("eval/pauc")}
    assert all(0 <= tpr <= 1 for tpr in scalars["eval/tpr"])


def test_hugging_face_trainer_computes_in_bfloat16_and_leaves_the_queue_in_evaluation(tmp_path):
    from covertype import load
    from hf_trainer import make_trainer

    data = load(quick=True)
    trainer = make_trainer(data, tmp_path, steps=2)
    of_model, of_loss = set(), set()
    trainer.model.net.register_forward_hook(lambda *hooked: of_model.add(hooked[2].dtype))
    trainer.model.pauc_loss.register_forward_hook(
        lambda loss, _, output: of_loss.add((loss.training, output[0].dtype))
    )
    trainer.train()
    assert of_model == {torch.bfloat16}
    assert of_loss == {(True, torch.float32), (False, torch.float32)}
    assert trainer.model.pauc_loss.queue_fill == 2 * 1024


def test_hugging_face_trainer_averages_over_accumulated_batches(tmp_path):
    """The gradient that the optimizer gets is the mean over the small batches, not their sum."""
    from covertype import load
    from hf_trainer import make_trainer

    data, totals = load(quick=True), []
    for count in (1, 4):
        trainer = make_trainer(data, tmp_path / str(count), steps=2)
        trainer.args.gradient_accumulation_steps = count
        norms = []
        trainer.model.net[0].weight.register_post_accumulate_grad_hook(
            lambda weight, norms=norms: norms.append(weight.grad.norm().item())
        )
        trainer.train()
        totals.append(norms[count - 1])
    # Of four like batches the mean gradient is as long as one, but for noise; the sum four times.
    assert totals[1] == pytest.approx(totals[0], rel=0.5)


def test_skorch_tunes_by_the_tpr_at_the_budget():
    out = run("skorch_classifier.py")
    assert out.count("TPR 0.") == 4
    assert "criterion__beta" in out


def test_skorch_queue_holds_training_rows_only_and_the_estimator_pickles():
    from covertype import load
    from skorch_classifier import SCORER, make_net

    data = load(quick=True)
    rows, targets = data.train.features.numpy()[:5000], data.train.targets.numpy()[:5000]
    torch.manual_seed(0)
    net = make_net(epochs=2).set_params(criterion__queue_size=20_000, criterion__beta=0.02)
    net.fit(rows, targets)
    assert net.criterion_.config.beta == 0.02
    assert net.criterion_.queue_fill == 2 * 4000  # a fifth is held back for validation
    assert SCORER(net, rows, targets) == pytest.approx(
        SCORER(pickle.loads(pickle.dumps(net)), rows, targets)
    )
    net.fit(rows, targets)
    assert net.criterion_.queue_fill == 2 * 4000, "a new fit begins with an empty queue"


def test_skorch_with_a_sampler_resumes_bit_for_bit(tmp_path):
    out = run("skorch_sampler.py", "--folder", str(tmp_path))
    assert "weights and queue equal in every bit" in out
    assert {file.name for file in tmp_path.iterdir()} == {
        "net.pt", "optimizer.pt", "loss.pt", "loader.pt"
    }  # fmt: skip


@pytest.mark.parametrize("lost", [None, "loader.pt", "loss.pt"])
def test_skorch_draws_the_rows_of_its_training_part_and_needs_both_states(tmp_path, lost):
    """Without the loader's or the loss's state a resumed run ends elsewhere."""
    from covertype import load
    from skorch_sampler import make_net

    data = load(quick=True)
    rows, targets = data.train.features.numpy()[:8000], data.train.targets.numpy()[:8000]
    torch.manual_seed(0)
    net = make_net(targets).initialize()
    net.partial_fit(rows, targets, epochs=1)
    features, held, _ = net.loader_._loader.dataset.tensors
    assert len(held) == 6400  # a fifth is held back for validation
    assert held.sum() == pytest.approx(0.8 * targets.sum(), abs=1)
    parted = {row.numpy().tobytes() for row in features}
    assert parted <= {row.tobytes() for row in rows}
    net.save(tmp_path)
    net.partial_fit(rows, targets, epochs=1)
    resumed = make_net(targets).resume(tmp_path)
    if lost == "loader.pt":
        resumed.loader_state_ = None
    if lost == "loss.pt":
        resumed.criterion_.reset_queue()
    resumed.partial_fit(rows, targets, epochs=1)
    assert resumed.criterion_.queue_fill == net.criterion_.queue_fill or lost == "loss.pt"
    weights = zip(net.module_.parameters(), resumed.module_.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights) is (lost is None)


def test_tensorboard_has_every_diagnostic_of_every_logged_step(tmp_path):
    run("tensorboard_log.py", "--folder", str(tmp_path))
    scalars = logged(tmp_path)
    assert set(scalars) == {f"pauc/{name}" for name in DIAGNOSTICS} | {"val_tpr"}
    assert all(len(values) == 3 for values in scalars.values())
    assert scalars["pauc/ref_count"][0] <= 1024 < scalars["pauc/ref_count"][1]
