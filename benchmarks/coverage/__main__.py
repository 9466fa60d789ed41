"""python -m benchmarks.coverage {synthetic,sweep,real,report}; see README.md here."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import torch

from . import run_real, run_synthetic
from .arms import ARMS, Arm, is_installed
from .datasets import KDD_FOLDS, SOURCES
from .store import Record, Store
from .synthetic import CUES
from .training import BUDGETS_BPS

RESULTS = Path(__file__).resolve().parents[1] / "results"
SYNTHETIC, REAL = RESULTS / "coverage-synthetic.jsonl", RESULTS / "coverage-real.jsonl"


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    # Losses warn of what the table will show: a batch without positives, a starved band.
    warnings.simplefilter("ignore")
    options.command(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    commands = parser.add_subparsers(required=True)
    for command in (synthetic, sweep):
        sub = add_command(commands, command, SYNTHETIC, seeds=8)
        sub.add_argument("--cues", nargs="+", default=CUES, choices=CUES)
        sub.add_argument("--budgets", nargs="+", type=int, default=[50], choices=BUDGETS_BPS)
        sub.add_argument("--queue-size", type=int, default=run_synthetic.QUEUE_SIZE)
    sub = add_command(commands, real, REAL, seeds=KDD_FOLDS)
    sub.add_argument("--sets", nargs="+", default=list(SOURCES), choices=SOURCES)
    sub.add_argument("--trials", type=int, default=5, help="of each arm, the documented one first")
    sub.add_argument("--epochs", type=int, help="instead of the data set's own number")
    sub = commands.add_parser("report", help=report.__doc__)
    sub.set_defaults(command=report)
    sub.add_argument("--synthetic", type=Path, nargs="+", default=[SYNTHETIC])
    sub.add_argument("--real", type=Path, nargs="+", default=[REAL])
    return parser.parse_args()


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    command: Callable[[argparse.Namespace], None],
    results: Path,
    seeds: int,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(command.__name__, help=command.__doc__)
    parser.set_defaults(command=command)
    parser.add_argument("--seeds", type=int, default=seeds, help="so many, from 0")
    parser.add_argument("--results", type=Path, default=results)
    if command is not sweep:
        parser.add_argument("--arms", nargs="+", default=["*"], help="names or patterns")
    return parser


def chosen(patterns: Sequence[str]) -> list[Arm]:
    """Arms by name; one whose package is missing is named and left out."""
    wanted = [arm for arm in ARMS.values() if any(fnmatch(arm.name, p) for p in patterns)]
    for arm in wanted:
        if not is_installed(arm.needs):
            print(f"left out: {arm.name} (no module {arm.needs})")
    return [arm for arm in wanted if is_installed(arm.needs)]


def synthetic(options: argparse.Namespace) -> None:
    """the contested-top population, arms side by side"""
    _run_synthetic(options, chosen(options.arms), "arms")


def sweep(options: argparse.Namespace) -> None:
    """the contested-top population, one arm with bands of many kinds"""
    _run_synthetic(options, run_synthetic.sweep_arms(), "band")


def _run_synthetic(options: argparse.Namespace, arms: Sequence[Arm], study: str) -> None:
    store = Store(options.results)
    seeds = range(options.seeds)
    for bps in options.budgets:
        for run in run_synthetic.plan(arms, options.cues, seeds, bps, options.queue_size, study):
            record = run_synthetic.run_one(run, store)
            coverage = record["result"]["coverage"][str(bps)]
            say(record, f"{run.data['cue']} {bps} bps", f"coverage {coverage:.3f}")


def real(options: argparse.Namespace) -> None:
    """real tables: tuned on validation rows, reported on test rows"""
    store = Store(options.results)
    arms = chosen(options.arms)
    for name in options.sets:
        needs = SOURCES[name].needs
        if not is_installed(needs):
            print(f"left out: {name} (no module {needs})")
            continue
        training = run_real.TRAININGS[name]
        if options.epochs is not None:
            training = replace(training, epochs=options.epochs)
        for seed in range(options.seeds):
            for arm in arms:
                for record in run_real.tuned(arm, name, seed, options.trials, training, store):
                    say(record, name, _real_tprs(record))


def _real_tprs(record: Record) -> str:
    parts = [part for part in ("validation", "test") if part in record["result"]]
    tprs = [record["result"][part]["tpr"][str(run_real.BUDGET_BPS)] for part in parts]
    return "  ".join(f"{part} TPR {tpr:.3f}" for part, tpr in zip(parts, tprs, strict=True))


def say(record: Record, what: str, found: str) -> None:
    config, seconds = record["config"], record["result"]["cpu_seconds"]
    print(
        f"{what:16} seed {config['seed']}  {config['arm']:46} {found}  {seconds:.1f} s", flush=True
    )


def report(options: argparse.Namespace) -> None:
    """tables and figures into README.md, from the results alone"""
    from .update import update

    update(options.synthetic, options.real)


if __name__ == "__main__":
    main()
