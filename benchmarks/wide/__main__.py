"""`python -m benchmarks.wide run`, `trees` and `report`: the wide study, line by line."""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

import torch

from benchmarks.coverage.store import Store

from .arms import ARMS
from .problems import PROBLEMS, data_of
from .training import run

RESULTS = Path(__file__).resolve().parents[1] / "results" / "wide.jsonl"


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    store = Store(arguments.results)
    for name in _chosen(PROBLEMS, arguments.problems):
        for seed in range(arguments.seeds):
            for arm in _chosen(ARMS, arguments.arms):
                for factor in arguments.lr_factors:
                    config = {"problem": name, "arm": arm, "seed": seed, "lr_factor": factor}
                    if store.find(config) is None:
                        data = data_of(name, seed)
                        found = run(PROBLEMS[name], data, ARMS[arm], seed=seed, lr_factor=factor)
                        store.add(config, found)
                        print(
                            name, seed, arm, factor, found["tpr"], found["cpu_seconds"], flush=True
                        )


def _chosen(names: object, patterns: list[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wide", description=__doc__)
    parser.add_argument("--problems", nargs="*", default=["*"])
    parser.add_argument("--arms", nargs="*", default=["*"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lr-factors", nargs="*", type=float, default=[1.0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
