"""Lightning: the loss as a part of the module, so that its queue is in every checkpoint.

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
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from covertype import Covertype, Part, load, mlp
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import IterableDataset

from pauc import PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024


class Aspen(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.pauc_loss = PAUCAtBudgetLoss(
            1,
            beta=6 * BUDGET,
            bce_weight=0.1,
            surrogate="pairwise",
            link="logistic",
            gradient_scale="live",
            tau_scale="unit",
            temperature=1.0,
            queue_size=16_384,
        )
        self.validation_scores: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        features, targets = batch
        loss, stats = self.pauc_loss(self.net(features), targets, return_diagnostics=True)
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


class Batches(IterableDataset):
    """Whole batches in an order drawn for each epoch; under DDP a rank has its part of every one.

    Parts in the order of the ranks, so that the queue's rows have the order of one process. Of a
    last batch that does not divide, ranks have different numbers of rows, which the loss minds not.
    """

    def __init__(self, part: Part, trainer: lightning.Trainer, *, shuffle: bool) -> None:
        self.part, self.trainer, self.shuffle = part, trainer, shuffle

    def __len__(self) -> int:
        return -(-len(self.part.targets) // BATCH_SIZE)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, order = len(self.part.targets), torch.arange(len(self.part.targets))
        if self.shuffle:
            seeded = torch.Generator().manual_seed(self.trainer.current_epoch)
            order = torch.randperm(count, generator=seeded)
        for batch in order.split(BATCH_SIZE):
            rows = batch.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
            yield self.part.features[rows], self.part.targets[rows]


def fit(
    model: Aspen,
    data: Covertype,
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
    # A LightningDataModule or DataLoaders do as well; these batches make runs comparable.
    trainer.fit(
        model,
        Batches(data.train, trainer, shuffle=True),
        Batches(data.validation, trainer, shuffle=False),
        ckpt_path=checkpoint,
    )
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
    model = Aspen()
    trainer = fit(model, data, folder, epochs=epochs, ranks=args.ranks)
    if not trainer.is_global_zero:
        return
    with torch.no_grad():
        scores = model.net(data.test.features)
    tpr = tpr_at_fpr(scores, data.test.targets, BUDGET)
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}; logs in {folder}")

    if args.ranks == 1:
        resumed = Aspen()
        first = next(folder.glob("epochs/epoch=0*.ckpt"))
        fit(resumed, data, folder / "resumed", epochs=epochs, checkpoint=first)
        wrong = differences(model, resumed)
        print(f"resumed after the first epoch: {wrong or 'weights and queue equal in every bit'}")


if __name__ == "__main__":
    main()
