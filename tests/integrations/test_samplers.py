"""`BandSampler` under other libraries: equal batches, each row once over the ranks, or an error.

The error names `BandLoader`, the layout that works everywhere.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

for library in ("lightning", "accelerate", "transformers", "skorch", "torchdata"):
    pytest.importorskip(library, reason="needs pip install '.[integrations]'")

import lightning  # noqa: E402
from accelerate import Accelerator, skip_first_batches  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402

from pauc import BandLoader, BandSampler, PAUCAtBudgetLoss  # noqa: E402
from tests.integrations.sampler_on_ranks import (  # noqa: E402
    BATCH_SIZE,
    EPOCHS,
    TARGETS,
    Module,
    make_loader,
    make_trainer,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*'set_vital' is deprecated:UserWarning"),
    # Most of these trainings look at which rows come, and refresh nothing.
    pytest.mark.filterwarnings("ignore:BandSampler. an epoch is over:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning"),
]
DATA = TensorDataset(TARGETS, torch.arange(len(TARGETS)))
RAW = ("batch_sampler", "sampler")


def epochs(sampler, count=EPOCHS):
    return [batch for _ in range(count) for batch in iter(sampler)]


# --- Lightning ---


@pytest.mark.parametrize("flag", [True, False])
def test_lightning_trains_each_rank_on_its_rows(tmp_path, flag):
    ran = on_ranks(tmp_path, "BandLoader", flag)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for rank in range(2):
        rows = json.loads((tmp_path / f"{rank}.json").read_text())
        assert rows == epochs(BandSampler(TARGETS, BATCH_SIZE, rank=rank, world_size=2))


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("layout", RAW)
def test_lightning_on_ranks_refuses_a_data_loader(tmp_path, layout, flag):
    ran = on_ranks(tmp_path, layout, flag)
    assert ran.returncode != 0
    assert not list(tmp_path.glob("*.json"))
    # Inside of its hook Lightning refuses a batch sampler in words of its own.
    own_words = layout == "batch_sampler" and flag
    assert ("modified sampler" if own_words else "pauc.BandLoader") in ran.stderr


def on_ranks(folder, layout, flag):
    return subprocess.run(
        [sys.executable, "-m", "tests.integrations.sampler_on_ranks", folder, layout, str(flag)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("layout", RAW)
@pytest.mark.parametrize("in_hook", [True, False])
def test_lightning_refuses_a_data_loader(layout, in_hook):
    module = Module(layout, None if in_hook else make_loader(layout))
    with pytest.raises(RuntimeError, match=r"pauc\.BandLoader"):
        make_trainer(None).fit(module)


def test_lightning_takes_a_loader_that_was_made_before():
    module = Module("BandLoader", make_loader("BandLoader"))
    make_trainer(None).fit(module)
    assert module.rows == epochs(BandSampler(TARGETS, BATCH_SIZE))


class Stop(lightning.Callback):
    """Save a checkpoint after a step, as a preempted run does."""

    def __init__(self, step, file):
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [7, 40, 45])
def test_lightning_resumes_the_sampler_in_the_middle_of_an_epoch(tmp_path, step, num_workers):
    """An epoch has 40 batches."""

    def module():
        sampler = BandSampler(TARGETS, BATCH_SIZE)
        return Module("BandLoader", BandLoader(DATA, sampler, num_workers=num_workers))

    whole, resumed = module(), module()
    saved = tmp_path / "saved.ckpt"
    make_trainer(None, callbacks=[Stop(step, saved)]).fit(whole)
    make_trainer(None).fit(resumed, ckpt_path=saved)
    assert resumed.rows == whole.rows[step:]


def test_lightning_overfits_a_list_of_batches():
    loader = make_loader("BandLoader")
    module = Module("", DataLoader(list(islice(loader, 3)), batch_size=None))
    make_trainer(None, overfit_batches=3).fit(module)
    assert module.rows == EPOCHS * epochs(BandSampler(TARGETS, BATCH_SIZE))[:3]


class ModuleWithLoss(Module):
    def training_step(self, batch):
        targets, rows = batch
        self.rows.append(rows.tolist())
        mask = BandSampler(TARGETS, BATCH_SIZE).iid_mask
        logits = self.net(targets.float().reshape(-1, 1))
        return PAUCAtBudgetLoss(1, beta=0.5, queue_size=64)(logits, targets, iid_mask=mask)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("in_hook", [True, False])
def test_lightning_overfits_single_rows_of_a_sampler_that_it_drops_and_the_loss_refuses_them(
    in_hook,
):
    """Nothing of the sampler is asked there; the shape tells."""
    module = ModuleWithLoss("sampler", None if in_hook else make_loader("sampler"))
    with pytest.raises(ValueError, match=r"targets must|iid_mask must"):
        make_trainer(None, overfit_batches=3).fit(module)
    assert len(module.rows) == 1
    assert isinstance(module.rows[0], int)


# --- accelerate and the Hugging Face Trainer ---


def test_two_ranks_of_accelerate_and_trainer_get_their_rows_or_an_error(tmp_path):
    """Each rank gets its own rows, each once; a DataLoader is refused with the cure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    module = "tests.integrations.trainer_on_ranks"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, tmp_path, str(rank)], env=env, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    said = [ran.communicate(timeout=600)[1].decode()[-3000:] for ran in ranks]
    assert [ran.returncode for ran in ranks] == [0, 0], said
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        wanted = BandSampler(TARGETS, BATCH_SIZE, rank=rank, world_size=2)
        assert found["ranks"] == 2
        assert found["BandLoader"] == epochs(wanted, 1)
        wanted = BandSampler(TARGETS, BATCH_SIZE, rank=rank, world_size=2)
        assert found["trainer"] == epochs(wanted)
        for layout in RAW:
            assert "Cure: give the framework pauc.BandLoader" in found[layout]


def test_accelerate_leaves_the_loader_alone_and_refuses_a_data_loader():
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(make_loader("BandLoader"))
    assert [rows.tolist() for _, rows in loader] == epochs(BandSampler(TARGETS, BATCH_SIZE), 1)
    for layout in RAW:
        with pytest.raises(RuntimeError, match=r"pauc\.BandLoader"):
            accelerator.prepare(make_loader(layout))
        with pytest.raises(RuntimeError, match=r"pauc\.BandLoader"):
            accelerator.prepare(make_loader(layout, rank=0, world_size=2))
    with pytest.raises(AttributeError, match=r"BandLoader\.load_state_dict"):
        skip_first_batches(make_loader("BandLoader"), 3)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def forward(self, targets, rows):  # noqa: ARG002
        return {"loss": self.net(targets.float().unsqueeze(1)).mean()}


class Recorder(Trainer):
    def get_train_dataloader(self):
        return self.loader

    def training_step(self, model, inputs, *args, **kwargs):
        self.rows.append(inputs["rows"].tolist())
        return super().training_step(model, inputs, *args, **kwargs)


def trainer_of(folder, loader, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=EPOCHS, use_cpu=True, report_to=[],
        save_strategy="steps", save_steps=30, disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = Recorder(model=Net(), args=arguments, train_dataset=DATA)
    trainer.loader, trainer.rows = loader, []
    return trainer


def as_dict(batch):
    return {"targets": batch[0], "rows": batch[1]}


def dict_loader():
    return BandLoader(DATA, BandSampler(TARGETS, BATCH_SIZE), collate_fn=as_dict)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trainer_takes_the_batches_of_the_sampler(tmp_path, accumulate):
    trainer = trainer_of(tmp_path, dict_loader(), gradient_accumulation_steps=accumulate)
    trainer.train()
    assert trainer.rows == epochs(BandSampler(TARGETS, BATCH_SIZE))


def test_the_trainer_refuses_to_skip_batches_of_a_loader_that_resumes(tmp_path):
    trainer_of(tmp_path, dict_loader()).train()
    resumed = trainer_of(tmp_path, dict_loader())
    with pytest.raises(AttributeError, match="ignore_data_skip=True"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-30"))


@pytest.mark.parametrize("layout", RAW)
def test_the_trainer_refuses_a_data_loader_that_it_prepares(tmp_path, layout):
    trainer = trainer_of(tmp_path, None)
    trainer.loader = make_loader(layout)
    with pytest.raises(RuntimeError, match=r"pauc\.BandLoader"):
        trainer.loader = trainer.accelerator.prepare(trainer.loader)


# --- loaders of torch and torchdata ---


@pytest.mark.parametrize("layout", RAW)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_data_loader_refuses_to_save_a_sampler_that_workers_have_run_ahead(
    layout, num_workers
):
    from torchdata.stateful_dataloader import StatefulDataLoader

    sampler = BandSampler(TARGETS, BATCH_SIZE)
    slots = {"batch_sampler": sampler}
    slots = slots if layout == "batch_sampler" else {"sampler": sampler, "batch_size": None}
    loader = StatefulDataLoader(DATA, num_workers=num_workers, **slots)
    with pytest.raises(ValueError, match="BandLoader"):  # noqa: PT012
        list(islice(loader, 3))
        loader.state_dict()


@pytest.mark.parametrize("layout", RAW)
def test_a_data_loader_of_ones_own_yields_the_batches(layout):
    loader = make_loader(layout)
    assert isinstance(loader, DataLoader)
    assert [rows.tolist() for _, rows in loader] == epochs(BandSampler(TARGETS, BATCH_SIZE), 1)
