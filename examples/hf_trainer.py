"""Hugging Face `Trainer`: a `compute_loss` of a few lines, bf16, and a queue that resumes.

    pip install ".[examples,integrations]"
    python examples/hf_trainer.py [--quick]

The loss hangs on the model, `model.pauc_loss`, so that the queue is in the checkpoints that
`Trainer` writes; any `PreTrainedModel` can carry it in the same way. Batches come from a
`BandSampler`, by a `BandLoader` that `Trainer` leaves alone; a callback saves its state beside each
checkpoint. `Trainer` calls the loss for
evaluation too: the module is then in `eval()` and its queue stands still. With `bf16=True` the
model computes in bfloat16, and its logits come back in float32. Diagnostics join the logs of
`Trainer` and so reach TensorBoard, or wherever `report_to` says. The last line resumes from the
checkpoint in the middle and compares.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from covertype import Covertype, Part, load, mlp
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from pauc import BandLoader, BandSampler, PAUCAtBudgetLoss
from pauc.metrics import tpr_at_fpr

BUDGET = 0.005
BATCH_SIZE = 1024


class Aspen(nn.Module):
    """What `Trainer` asks of a model: keyword arguments in, a dict out."""

    def __init__(self, sampler: BandSampler) -> None:
        super().__init__()
        self.net = mlp()
        self.pauc_loss = PAUCAtBudgetLoss.for_budget(
            BUDGET,
            batch_size=BATCH_SIZE,
            positive_rate=sampler.positive_rate,
            iid_share=sampler.iid_share,
        )

    def forward(
        self,
        features: Tensor,
        labels: Tensor | None = None,  # noqa: ARG002
        rows: Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        return {"logits": self.net(features)}


class SaveSampler(TrainerCallback):
    """The sampler's state in a file beside each checkpoint, and a new hard set now and then."""

    def __init__(self, loader: BandLoader, refresh_steps: int) -> None:
        self.loader, self.refresh_steps = loader, refresh_steps

    def on_step_end(
        self, _: TrainingArguments, state: TrainerState, *__: TrainerControl, **___: Any
    ) -> None:
        if state.global_step % self.refresh_steps == 0:
            self.loader.band_sampler.refresh()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, *_: TrainerControl, **__: Any
    ) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self.loader.state_dict(), folder / "sampler.pt")

    def resume(self, checkpoint: Path) -> None:
        """Call it before `train(resume_from_checkpoint=...)`."""
        self.loader.load_state_dict(torch.load(checkpoint / "sampler.pt", weights_only=True))


class BudgetTrainer(Trainer):
    loader: BandLoader

    def get_train_dataloader(self) -> BandLoader:  # type: ignore[override]
        return self.loader  # as it is: `accelerator.prepare` would take a DataLoader apart

    # With `gradient_accumulation_steps` above 1 `Trainer` divides this loss by their number, as it
    # should; each of the smaller batches enters the queue on its own.
    loss_is_scaled_for_ga = False
    diagnostics: dict[str, float] = {}  # noqa: RUF012

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        outputs = model(**inputs)
        # Batches of the sampler alone name their rows; in evaluation all rows are iid.
        sampled, sampler = "rows" in inputs, self.loader.band_sampler
        mask = sampler.iid_mask.to(inputs["labels"].device) if sampled else None
        # `self.model`, not `model`: that one may be wrapped, by DDP for one.
        loss, stats = self.model.pauc_loss(
            outputs["logits"], inputs["labels"], iid_mask=mask, return_diagnostics=True
        )
        if sampled:
            sampler.update(inputs["rows"], outputs["logits"])
        if self.model.training:
            self.diagnostics = {f"pauc_{k}": v.float().mean().item() for k, v in stats.items()}
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs | (self.diagnostics if "loss" in logs else {}), *args, **kwargs)


def tpr_at_budget(prediction: EvalPrediction) -> dict[str, float]:
    scores, targets = map(torch.from_numpy, (prediction.predictions, prediction.label_ids))
    return {"tpr": tpr_at_fpr(scores, targets, BUDGET).item()}


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    features, labels = zip(*rows, strict=True)
    return {"features": torch.stack(features), "labels": torch.stack(labels)}


def dataset(part: Part) -> TensorDataset:
    return TensorDataset(part.features, part.targets)


def as_inputs(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    return dict(zip(("features", "labels", "rows"), batch, strict=True))


def make_trainer(data: Covertype, folder: Path, *, steps: int) -> BudgetTrainer:
    set_seed(0)
    rows = torch.arange(len(data.train.targets))
    sampler = BandSampler(data.train.targets, BATCH_SIZE)
    loader = BandLoader(TensorDataset(*data.train, rows), sampler, collate_fn=as_inputs)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=8192,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,  # off; the loss does not need it
        bf16=True,
        use_cpu=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=steps // 2,
        save_steps=steps // 2,
        logging_steps=max(1, steps // 20),
        report_to=["tensorboard"],
        remove_unused_columns=False,
        ignore_data_skip=True,  # the loader's state knows where a resumed run goes on
    )
    trainer = BudgetTrainer(
        model=Aspen(sampler),
        args=arguments,
        train_dataset=dataset(data.train),
        eval_dataset=dataset(data.validation),
        data_collator=collate,
        compute_metrics=tpr_at_budget,
        callbacks=[SaveSampler(loader, refresh_steps=10)],
    )
    trainer.loader = loader
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60,000 rows, 40 steps")
    parser.add_argument("--folder", type=Path, help="for checkpoints and logs (default: a new one)")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="pauc-trainer-"))
    data, steps = load(quick=args.quick), 40 if args.quick else 3000

    trainer = make_trainer(data, folder, steps=steps)
    trainer.train()
    tested = trainer.evaluate(dataset(data.test), metric_key_prefix="test")
    print(f"TPR at FPR {BUDGET:.1%} on held-out rows: {tested['test_tpr']:.3f}; logs in {folder}")

    resumed = make_trainer(data, folder / "resumed", steps=steps)
    checkpoint = folder / f"checkpoint-{steps // 2}"
    SaveSampler(resumed.loader, 10).resume(checkpoint)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    states = (trainer.model.state_dict(), resumed.model.state_dict())
    wrong = [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]
    print(f"resumed at step {steps // 2}: {wrong or 'weights and queue equal in every bit'}")


if __name__ == "__main__":
    main()
