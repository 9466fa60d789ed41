"""The wide study: `python -m benchmarks.wide run`, `instead`, then `report`.

Each finished run is a line, keyed by its whole configuration, and never run again.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks._report import replace_in_readme
from benchmarks.coverage.store import Store

from . import instead
from .arms import ARMS
from .problems import PROBLEMS, data_of
from .report import summary, table
from .training import run
from .variants import averages, rates

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results" / "wide.jsonl"
PAGE = BENCHMARKS.parent / "docs" / "choose.md"


def main() -> None:
    arguments = _parser().parse_args()
    store = Store(arguments.results)
    if arguments.command == "report":
        records = list(store.records.values())
        replace_in_readme("wide", table(records), PAGE)
        replace_in_readme("wide-summary", summary(records), BENCHMARKS.parent / "README.md")
        replace_in_readme("wide-rates", rates(records), PAGE)
        replace_in_readme("wide-averages", averages(records), PAGE)
        return
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for name in _chosen(PROBLEMS, arguments.problems):
            if arguments.command == "instead":
                _run_instead(store, name, seed)
                continue
            for arm in _chosen(ARMS, arguments.arms):
                for factor in arguments.lr_factors:
                    _run(store, name, arm, seed, factor)


def _run(store: Store, name: str, arm: str, seed: int, factor: float) -> None:
    config = {"problem": name, "arm": arm, "seed": seed, "lr_factor": factor}
    if store.find(config) is None:
        found = run(PROBLEMS[name], data_of(name, seed), ARMS[arm], seed=seed, lr_factor=factor)
        store.add(config, found)
        print(name, seed, arm, factor, found["tpr"], found["cpu_seconds"], flush=True)


def _run_instead(store: Store, name: str, seed: int) -> None:
    for arm in instead.arms_of(name):
        config = {"problem": name, "arm": arm, "seed": seed, "lr_factor": 1.0}
        if store.find(config) is None:
            found = store.add(config, instead.run(arm, data_of(name, seed)))["result"]
            print(name, seed, found["trial"], found["tpr"], found["cpu_seconds"], flush=True)


def _chosen(names: Iterable[str], patterns: list[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wide", description=__doc__)
    parser.add_argument("command", choices=["run", "instead", "report"])
    parser.add_argument("--problems", nargs="*", default=["*"])
    parser.add_argument("--arms", nargs="*", default=["*"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lr-factors", nargs="*", type=float, default=[1.0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
