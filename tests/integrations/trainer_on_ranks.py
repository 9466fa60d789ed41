"""One of two ranks of accelerate and the Hugging Face `Trainer` on CPU, with a `BandSampler`.

    python -m tests.integrations.trainer_on_ranks FOLDER RANK

Saves in FOLDER, for each layout of the loader, the rows that the rank got or the error that it met.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import TensorDataset

from pauc import BandLoader, BandSampler
from tests.integrations.sampler_on_ranks import BATCH_SIZE, TARGETS, make_loader


def prepared(accelerator, layout):
    try:
        loader = accelerator.prepare(make_loader(layout))
        return [rows.tolist() for _, rows in loader]
    except RuntimeError as error:
        return str(error)


def trained(folder):
    """The rows that `Trainer` trained on, with a BandLoader from `get_train_dataloader`."""
    from tests.integrations.test_samplers import as_dict, trainer_of

    data = TensorDataset(TARGETS, torch.arange(len(TARGETS)))
    loader = BandLoader(data, BandSampler(TARGETS, BATCH_SIZE), collate_fn=as_dict)
    trainer = trainer_of(folder / "trainer", loader, ddp_backend="gloo")
    trainer.train()
    return trainer.rows


def main():
    folder, rank = Path(sys.argv[1]), sys.argv[2]
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=int(rank), world_size=2
    )
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    found = {
        name: prepared(accelerator, name) for name in ("BandLoader", "batch_sampler", "sampler")
    }
    found["ranks"] = accelerator.num_processes
    (folder / f"{rank}.json").write_text(json.dumps(found))
    found["trainer"] = trained(folder)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
