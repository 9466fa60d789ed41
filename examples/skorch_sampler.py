"""skorch with a `BandSampler`: batches by a `BandLoader`, the budget by `for_budget`, and a resume.

    pip install ".[examples,integrations]"
    python examples/skorch_sampler.py [--quick]

A subclass of two methods: `get_iterator` gives training a `BandLoader`, and `get_loss` hands the
mask to the loss and the scores to the sampler. `save_params` keeps the weights, the optimizer and,
by `f_criterion`, the queue; the state of the loader goes beside them. The last line trains on from
there in a new estimator and compares.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from covertype import load, mlp
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochScoring
from skorch_classifier import BUDGET, SCORER, Bar, both_probabilities
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from pauc import BandLoader, BandSampler, PAUCAtBudgetLoss

BATCH_SIZE = 1024


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, features: Tensor, rows: Tensor | None = None) -> Tensor:  # noqa: ARG002
        logits: Tensor = self.net(features)
        return logits


class BandNet(NeuralNetClassifier):  # type: ignore[misc]
    """A classifier whose training batches come from a `BandSampler`."""

    def initialize(self) -> BandNet:
        self.loader_: BandLoader | None = None  # a new fit, with a queue and a sampler of its own
        self.loader_state_: dict[str, Any] | None = None
        super().initialize()
        return self

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        if not training:
            return super().get_iterator(dataset, training=False)
        if self.loader_ is None:
            self.loader_ = make_loader(dataset)
            if self.loader_state_ is not None:
                self.loader_.load_state_dict(self.loader_state_)
        return self.loader_

    def get_loss(
        self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False
    ) -> Tensor:
        if not training:  # the queue stands still, and all rows are iid
            return self.criterion_(y_pred, y_true)
        sampler = self.loader_.band_sampler
        sampler.update(X["rows"], y_pred)
        return self.criterion_(y_pred, y_true, iid_mask=sampler.iid_mask.to(y_pred.device))

    def save(self, folder: Path) -> None:
        """Save between two calls of `partial_fit`."""
        self.save_params(**files(folder))
        torch.save(self.loader_.state_dict(), folder / "loader.pt")

    def resume(self, folder: Path) -> BandNet:
        """Go on from there with the next `partial_fit` on the same rows."""
        self.initialize()
        self.load_params(**files(folder))
        self.loader_state_ = torch.load(folder / "loader.pt", weights_only=True)
        return self


class Refresh(Callback):  # type: ignore[misc]
    """New hard negatives after each epoch."""

    def on_epoch_end(self, net: BandNet, **_: Any) -> None:
        net.loader_.band_sampler.refresh()


def files(folder: Path) -> dict[str, str]:
    """Where `save_params` puts the weights, the optimizer and the loss with its queue."""
    names = {"f_params": "net.pt", "f_optimizer": "optimizer.pt", "f_criterion": "loss.pt"}
    return {option: str(folder / name) for option, name in names.items()}


def make_loader(dataset: Any) -> BandLoader:
    """Return the loader of the training rows, which skorch holds as a part of all rows."""
    whole, places = dataset, slice(None)
    if isinstance(dataset, Subset):
        whole, places = dataset.dataset, np.asarray(dataset.indices)
    features, targets = torch.as_tensor(whole.X[places]), torch.as_tensor(whole.y[places])
    tensors = TensorDataset(features, targets, torch.arange(len(targets)))
    return BandLoader(tensors, BandSampler(targets, BATCH_SIZE), collate_fn=as_batch)


def as_batch(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return what skorch takes: the arguments of the module, and the targets."""
    features, targets, rows = batch
    return {"features": features, "rows": rows}, targets


def make_net(targets: NDArray[np.int64]) -> BandNet:
    # skorch makes the loss before it sees rows; its stratified split leaves the rates as they are.
    sampler = BandSampler(targets, BATCH_SIZE)
    return BandNet(
        Net,
        criterion=PAUCAtBudgetLoss.for_budget,
        criterion__budget=BUDGET,
        criterion__batch_size=BATCH_SIZE,
        criterion__positive_rate=sampler.positive_rate,
        criterion__iid_share=sampler.iid_share,
        predict_nonlinearity=both_probabilities,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=8192,  # of validation and prediction
        callbacks=[
            ("val_tpr", EpochScoring(SCORER, name="val_tpr", lower_is_better=False)),
            ("refresh", Refresh()),
            ("bar", Bar()),
        ],
        callbacks__print_log=None,
        callbacks__valid_acc=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 2 epochs")
    parser.add_argument("--folder", type=Path, help="for the saved state (default: a new one)")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="pauc-skorch-"))
    torch.manual_seed(0)
    data, epochs = load(quick=args.quick), 1 if args.quick else 5
    rows, targets = data.train.features.numpy(), data.train.targets.numpy()

    net = make_net(targets).initialize()
    net.partial_fit(rows, targets, epochs=epochs)
    net.save(folder)
    net.partial_fit(rows, targets, epochs=epochs)
    tpr = SCORER(net, data.test.features.numpy(), data.test.targets.numpy())
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tpr:.3f}; state in {folder}")

    resumed = make_net(targets).resume(folder)
    resumed.partial_fit(rows, targets, epochs=epochs)
    ended = [{**own.module_.state_dict(), **own.criterion_.state_dict()} for own in (net, resumed)]
    wrong = [name for name, value in ended[0].items() if not torch.equal(value, ended[1][name])]
    print(f"resumed after half of the epochs: {wrong or 'weights and queue equal in every bit'}")


if __name__ == "__main__":
    main()
