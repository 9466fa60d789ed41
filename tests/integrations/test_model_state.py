"""The queue inside a model that other libraries load, average, save and export.

Hugging Face, Lightning, accelerate, ONNX, and the distributed checkpoints of torch.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pauc import PAUCAtBudgetLoss, init_queue, queue_rows
from tests.modules.test_held_queue import Detector, batch, same, trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

QUEUE = 64


# --- Hugging Face ---


@pytest.fixture(scope="module")
def bert():
    """A classifier with its loss inside, and the configuration of a tiny backbone."""
    transformers = pytest.importorskip("transformers", reason="needs '.[integrations]'")

    class BertDetector(transformers.BertPreTrainedModel):
        def __init__(self, config, queue_size=QUEUE):
            super().__init__(config)
            self.bert = transformers.BertModel(config)
            self.head = nn.Linear(config.hidden_size, 1)
            self.pauc_loss = PAUCAtBudgetLoss(1, beta=0.2, queue_size=queue_size)
            self.post_init()

        def forward(self, input_ids, labels=None):
            logits = self.head(self.bert(input_ids).pooler_output)
            return logits if labels is None else self.pauc_loss(logits, labels)

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertDetector, config, transformers


def texts(seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 50, (30, 6), generator=g), batch(seed)[1]


def trained_bert(bert, folder):
    kind, config, _ = bert
    torch.manual_seed(0)
    model = kind(config)
    for seed in range(5):
        model(*texts(seed))
    model.save_pretrained(folder)
    return model


def is_empty(queue):
    return same(queue, init_queue(QUEUE, 1))


def test_a_loss_on_a_pretrained_backbone_begins_with_an_empty_queue(bert, tmp_path):
    kind, config, transformers = bert
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    trained_bert(bert, tmp_path / "other")  # leaves freed queues behind
    for _ in range(5):
        model = kind.from_pretrained(tmp_path)
        assert is_empty(model.pauc_loss.queue)
        model.train()
        fresh = PAUCAtBudgetLoss(1, beta=0.2, queue_size=QUEUE)
        ids, labels = texts(0)
        assert torch.equal(model(ids, labels), fresh(model(ids), labels))
        assert same(model.pauc_loss.queue, fresh.queue)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_detector_comes_back_with_its_queue(bert, dtype, tmp_path):
    model = trained_bert(bert, tmp_path)
    again = bert[0].from_pretrained(tmp_path, dtype=dtype).train()
    assert again.head.weight.dtype == dtype
    assert again.pauc_loss.queue_scores.dtype == torch.float32
    if dtype == torch.float32:
        assert same(again.pauc_loss.queue, model.pauc_loss.queue)
        assert torch.equal(again(*texts(7)), model(*texts(7)))
    else:
        assert same(again.pauc_loss.queue[1:], model.pauc_loss.queue[1:])
        assert torch.allclose(
            again.pauc_loss.queue_scores, model.pauc_loss.queue_scores, rtol=2**-8
        )
    again(*texts(8))
    deeper = copy.deepcopy(again)
    assert same(deeper.pauc_loss.queue, again.pauc_loss.queue)


def test_another_queue_size_is_refused_or_begins_empty(bert, tmp_path):
    trained_bert(bert, tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        bert[0].from_pretrained(tmp_path, queue_size=100)
    model = bert[0].from_pretrained(tmp_path, queue_size=100, ignore_mismatched_sizes=True)
    assert same(model.pauc_loss.queue, init_queue(100, 1))
    model.train()(*texts(0))
    assert int(model.pauc_loss.queue_fill) == 30


def damage(folder, change):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    saved = load_file(file)
    change(saved)
    save_file(saved, file, metadata={"format": "pt"})


def test_a_checkpoint_with_a_part_of_a_queue_begins_empty(bert, tmp_path):
    trained_bert(bert, tmp_path)
    damage(tmp_path, lambda saved: saved.pop("pauc_loss.queue_scores"))
    assert is_empty(bert[0].from_pretrained(tmp_path).pauc_loss.queue)


def test_a_checkpoint_with_counters_of_no_queue_is_refused(bert, tmp_path):
    trained_bert(bert, tmp_path)
    damage(tmp_path, lambda saved: saved["pauc_loss.queue_fill"].fill_(94_432_483_174_144))
    with pytest.raises(ValueError, match=r"fill=94432483174144.*which no queue can have"):
        bert[0].from_pretrained(tmp_path)


# --- Lightning ---


def lightning_model(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
            self.pauc_loss = PAUCAtBudgetLoss(1, beta=0.2, queue_size=QUEUE)
            self.seen = []

        def training_step(self, rows):
            return self.pauc_loss(self.net(rows[0]), rows[1])

        def validation_step(self, rows):
            before = self.pauc_loss.state_dict()
            self.seen.append(self.pauc_loss(self.net(rows[0]), rows[1]).item())
            after = self.pauc_loss.state_dict()
            assert all(torch.equal(after[key], value) for key, value in before.items())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def fit(lightning, model, folder, callbacks, epochs=3, **options):
    rows = TensorDataset(*batch(0, 300))
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=callbacks,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, DataLoader(rows, 30, shuffle=False), DataLoader(rows, 100), **options)
    return trainer


def targets_by_age(model):
    queue = model.pauc_loss.queue
    return queue.targets[queue_rows(queue)]


AVERAGES = ["EMAWeightAveraging", "WeightAveraging", "StochasticWeightAveraging"]


@pytest.mark.parametrize("kind", AVERAGES)
def test_lightning_averages_weights_and_leaves_the_queue(kind, tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs '.[integrations]'")
    from lightning.pytorch import callbacks

    options = {"swa_lrs": 0.1, "swa_epoch_start": 1} if kind.startswith("Stoch") else {}
    averaging = getattr(callbacks, kind)(**options)
    model, plain = lightning_model(lightning), lightning_model(lightning)
    checks = callbacks.ModelCheckpoint(tmp_path, filename="last", save_top_k=-1)
    fit(lightning, model, tmp_path, [averaging, checks])
    fit(lightning, plain, tmp_path / "plain", [])
    queue = model.pauc_loss.queue
    assert int(queue.fill) == QUEUE
    # Lightning's SWA runs another epoch in training, for the sake of batch norms.
    assert int(queue.step) == (40 if options else 30)
    # The targets do not depend on the weights: they are those of the run without an average.
    assert torch.equal(targets_by_age(model), targets_by_age(plain))
    assert all(0 <= value < 2 for value in model.seen)
    if not options:  # else the average is of parameters alone
        held = averaging._average_model.module
        assert torch.equal(targets_by_age(held), targets_by_age(plain))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for state in (saved["state_dict"], saved.get("current_model_state", saved["state_dict"])):
        other = lightning_model(lightning)
        other.load_state_dict(state)
        assert torch.equal(targets_by_age(other), targets_by_age(plain))


def test_a_resumed_run_with_an_average_ends_equal_in_every_bit(tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs '.[integrations]'")
    from lightning.pytorch import callbacks

    def run(folder, epochs, **options):
        model, average = lightning_model(lightning), callbacks.EMAWeightAveraging(decay=0.9)
        saves = callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        fit(lightning, model, folder, [average, saves], epochs, **options)
        return model

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "half", 2)
    resumed = run(tmp_path / "rest", 4, ckpt_path=tmp_path / "half" / "epoch=1.ckpt")
    assert same(whole.pauc_loss.queue, resumed.pauc_loss.queue)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


# --- accelerate, and torch's own distributed checkpoints ---


@pytest.mark.parametrize("include_buffers", [True, False])
def test_accelerate_fills_an_empty_model(include_buffers, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="needs '.[integrations]'")
    from safetensors.torch import save_file

    source = trained()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    with accelerate.init_empty_weights(include_buffers=include_buffers):
        model = Detector()
    model = accelerate.load_checkpoint_and_dispatch(
        model, str(tmp_path / "model.safetensors"), device_map={"": "cpu"}
    )
    assert same(model.pauc_loss.queue, source.pauc_loss.queue)
    for seed in range(6, 9):
        assert torch.equal(model(*batch(seed)), source(*batch(seed)))
    assert same(model.pauc_loss.queue, source.pauc_loss.queue)


@pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")
def test_distributed_checkpoints_carry_the_queue(tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        get_model_state_dict,
        set_model_state_dict,
    )

    source, model = trained(), Detector()
    dcp.save(get_model_state_dict(source), checkpoint_id=tmp_path, no_dist=True)
    state = get_model_state_dict(model)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(model, state)
    assert same(model.pauc_loss.queue, source.pauc_loss.queue)
    assert torch.equal(model(*batch(7)), source(*batch(7)))


# --- ONNX ---


def test_a_model_in_onnx_predicts_and_holds_weights_alone():
    pytest.importorskip("onnxscript", reason="needs '.[integrations]'")
    from onnx.reference import ReferenceEvaluator

    model = trained().eval()
    features = batch(1)[0]
    program = torch.onnx.export(model, (features,), dynamo=True, verbose=False)
    assert set(program.model.graph.initializers) == {"net.weight", "net.bias"}
    onnx = ReferenceEvaluator(program.model_proto)
    (scores,) = onnx.run(None, {onnx.input_names[0]: features.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), model(features).detach())
