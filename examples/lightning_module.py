"""Lightning: the loss as a part of the module, so that its queue is in every checkpoint.

Batches come from a `BandSampler` by a `BandLoader`, whose state is saved as well.

    pip install ".[examples,integrations]"
    python examples/lightning_module.py [--quick]              # one process, then a resumed run
    python examples/lightning_module.py --ranks 2 [--quick]    # DDP on CPU

The first trains, resumes a second run from the checkpoint of the first epoch, and shows that it
ends in the same weights and the same queue, bit for bit. Under DDP the loss sees the rows of all
ranks; run without `--ranks`, the same seed gives the same weights but for rounding. Diagnostics go
to TensorBoard by `self.log_dict`: `tensorboard --logdir DIR` with the folder that is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import lightning
import torch
from covertype import Covertype, load, mlp
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pauc import BandLoader, BandSampler, PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024
REFRESH_STEPS = 20


class Aspen(lightning.LightningModule):
    def __init__(self, data: Covertype) -> None:
        super().__init__()
        self.data = data
        self.saved_loader: dict[str, Any] | None = None
        self.net = mlp()
        # The loss sees the rows of all ranks, so what it is told is of the batch of all.
        whole = BandSampler(data.train.targets, BATCH_SIZE, rank=0, world_size=1)
        self.pauc_loss = PAUCAtBudgetLoss.for_budget(
            BUDGET,
            batch_size=BATCH_SIZE,
            positive_rate=whole.positive_rate,
            iid_share=whole.iid_share,
        )
        self.validation_scores: list[tuple[Tensor, Tensor]] = []

    def train_dataloader(self) -> BandLoader:
        # Here, where the process group is up: the sampler takes its rank from it.
        targets = self.data.train.targets
        self.sampler = BandSampler(targets, BATCH_SIZE // self.trainer.world_size)
        rows = torch.arange(len(targets))
        self.loader = BandLoader(TensorDataset(*self.data.train, rows), self.sampler)
        if self.saved_loader is not None:
            self.loader.load_state_dict(self.saved_loader)
        return self.loader

    # Lightning saves the loader's state by itself, but loads it in the middle of an epoch only.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["loader"] = self.loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved_loader = checkpoint["loader"]

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(*self.data.validation), 8192)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        features, targets, rows = batch
        logits, mask = self.net(features), self.sampler.iid_mask.to(self.device)
        loss, stats = self.pauc_loss(logits, targets, mask, return_diagnostics=True)
        # Of all ranks, so that the hard set, and with it the saved state, is the same on all.
        seen = self.all_gather((rows, logits.detach()))
        self.sampler.update(seen[0].flatten(), seen[1].flatten())
        # By steps, not in a hook of the epoch: Lightning saves before some of these hooks, and a
        # resumed run would not call them again.
        if (batch_idx + 1) % REFRESH_STEPS == 0:
            self.sampler.refresh()
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"pauc/{name}": value.float().mean() for name, value in stats.items()})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        # The metric needs all rows at once; the loss is not called, its queue stands still.
        self.validation_scores.append((self.net(batch[0])[:, 0], batch[1]))

    def on_validation_epoch_end(self) -> None:
        scores, targets = (
            self.all_gather(torch.cat(part)).flatten()
            for part in zip(*self.validation_scores, strict=True)
        )
        self.validation_scores.clear()
        tpr = tpr_at_fpr(scores, targets, BUDGET).float()
        self.log("val_tpr", tpr, prog_bar=True, sync_dist=True)  # equal on all ranks already


def fit(
    model: Aspen,
    folder: Path,
    *,
    epochs: int,
    ranks: int = 1,
    checkpoint: Path | None = None,
) -> lightning.Trainer:
    """Train `model`, from `checkpoint` on if there is one; `folder` keeps one of each epoch."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=epochs,
        callbacks=[
            TQDMProgressBar(),
            ModelCheckpoint(folder / "epochs", filename="{epoch}", save_top_k=-1),
        ],
        logger=TensorBoardLogger(folder, name="log"),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.fit(model, ckpt_path=checkpoint)
    return trainer


def differences(one: Aspen, other: Aspen) -> list[str]:
    """Names of parameters and buffers, those of the queue among them, that differ in any bit."""
    state = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, state[name])]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 2 epochs")
    parser.add_argument("--ranks", type=int, default=1, help="CPU processes (default 1)")
    parser.add_argument("--folder", type=Path, help="for checkpoints and logs (default: a new one)")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="pauc-lightning-"))
    data, epochs = load(quick=args.quick), 2 if args.quick else 10

    lightning.seed_everything(0)
    model = Aspen(data)
    trainer = fit(model, folder, epochs=epochs, ranks=args.ranks)
    if not trainer.is_global_zero:
        return
    with torch.no_grad():
        scores = model.net(data.test.features)
    tpr = tpr_at_fpr(scores, data.test.targets, BUDGET)
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}; logs in {folder}")

    if args.ranks == 1:
        resumed = Aspen(data)
        first = next(folder.glob("epochs/epoch=0*.ckpt"))
        fit(resumed, folder / "resumed", epochs=epochs, checkpoint=first)
        wrong = differences(model, resumed)
        print(f"resumed after the first epoch: {wrong or 'weights and queue equal in every bit'}")


if __name__ == "__main__":
    main()
