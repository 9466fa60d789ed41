"""Lightning on two ranks of this machine, with a `BandSampler` in one of its layouts.

    python -m tests.integrations.sampler_on_ranks FOLDER LAYOUT USE_DISTRIBUTED_SAMPLER

Each rank saves the rows that it trained on, one list a batch and epoch, in FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from pauc import BandLoader, BandSampler

TARGETS = (torch.arange(400) % 20 == 0).long()
BATCH_SIZE = 20
EPOCHS = 2


class Module(lightning.LightningModule):
    def __init__(self, layout, loader=None):
        super().__init__()
        self.layout, self.made, self.rows = layout, loader, []
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        targets, rows = batch
        self.rows.append(rows.tolist())
        return self.net(targets.float().unsqueeze(1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        self.loader = self.made or make_loader(self.layout)
        return self.loader


def make_loader(layout, **ranks):
    data = TensorDataset(TARGETS, torch.arange(len(TARGETS)))
    sampler = BandSampler(TARGETS, BATCH_SIZE, **ranks)
    if layout == "BandLoader":
        return BandLoader(data, sampler)
    if layout == "batch_sampler":
        return DataLoader(data, batch_sampler=sampler)
    return DataLoader(data, sampler=sampler, batch_size=None)


def make_trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": EPOCHS, "barebones": False}
    checkpoints = {"enable_checkpointing": False} if folder is None else {}
    return lightning.Trainer(
        default_root_dir=folder, **quiet, **{**defaults, **checkpoints, **options}
    )


def main():
    folder, layout, flag = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
    module = Module(layout)
    trainer = make_trainer(None, devices=2, strategy="ddp", use_distributed_sampler=flag)
    trainer.fit(module)
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps(module.rows))


if __name__ == "__main__":
    main()
