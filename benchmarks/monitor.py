"""How often the monitor raises a false alarm, and how soon it finds a doubled FPR.

    python benchmarks/monitor.py                  # some minutes on one core
    python benchmarks/monitor.py --streams 100

Streams of alerts among negatives in batches of 500, budget 0.5 %, confidence 95 %. The first table
has streams that keep the budget, of 2 million rows each: the share of them that ever see an alarm,
beside that of a test of each batch at 5 % and of a test of all rows so far at 5 %, both one-sided
and exact. The second has streams that keep it for a while and then have the FPR `after`: the rows
until the alarm, beside those of evidence from the first row alone (the same mixture over tilts).
The third has the share of streams of which every interval, of all those that are reported over a
million rows, holds the average FPR of its rows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import torch
from tqdm import tqdm

from pauc.monitor import FPRMonitor
from pauc.monitor.evidence import TILTS, log_ratio, log_sum
from pauc.thresholds.tails import binomial_cdf

BUDGET, CONFIDENCE, BATCH = 0.005, 0.95, 500
QUIET_ROWS = 2_000_000
LONGEST_DELAY = 3_000_000


class FromFirstRow:
    """Evidence from the first row alone, with all the weight on it."""

    def __init__(self) -> None:
        self.alerts = self.rows = 0

    def update(self, alerts: int, rows: int) -> bool:
        self.alerts, self.rows = self.alerts + alerts, self.rows + rows
        logs = [log_ratio(tilt, BUDGET, self.alerts, self.rows) for tilt in TILTS]
        return log_sum(logs) - math.log(len(TILTS)) < -math.log(1 - CONFIDENCE)


def batches(rate: Callable[[int], float], rows: int, seed: int) -> Iterator[int]:
    """Yield the alerts of each batch, for a rate that is a function of the rows before it."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor([rate(row) for row in range(0, rows, BATCH)], dtype=torch.float64)
    counts = torch.full_like(rates, BATCH)
    yield from map(int, torch.binomial(counts, rates, generator=generator).tolist())


def most_alerts(rows: int) -> int:
    """Return the most alerts that a one-sided exact test at 5 % admits among so many rows."""
    first, below = binomial_cdf(rows, BUDGET)
    return first + int((below < CONFIDENCE).sum())


def false_alarms(rate: float, streams: int) -> tuple[float, float, float]:
    """Return the shares of streams with an alarm: the monitor, batch by batch, all rows so far."""
    of_batch = most_alerts(BATCH)
    # All rows so far are tested once in ten batches, which is kind to that test.
    so_far = {row: most_alerts(row) for row in range(10 * BATCH, QUIET_ROWS + 1, 10 * BATCH)}
    alarms = [0, 0, 0]
    for seed in tqdm(range(streams), leave=False):
        monitor, total, seen = FPRMonitor(BUDGET, confidence=CONFIDENCE), 0, [False] * 3
        for k, alerts in enumerate(batches(lambda _: rate, QUIET_ROWS, seed), start=1):
            total += alerts
            seen[0] = not monitor.update(alerts, BATCH)
            seen[1] |= alerts > of_batch
            seen[2] |= total > so_far.get(k * BATCH, total)
        alarms = [count + one for count, one in zip(alarms, seen, strict=True)]
    return alarms[0] / streams, alarms[1] / streams, alarms[2] / streams


def delays(make: Callable[[], FPRMonitor | FromFirstRow], quiet: int, before: float, after: float,
           streams: int) -> list[float]:  # fmt: skip
    """Return the rows from the change to the alarm; streams with a false alarm are left out."""
    found = []
    for seed in tqdm(range(streams), leave=False):
        monitor = make()
        stream = batches(lambda row: before if row < quiet else after, quiet + LONGEST_DELAY, seed)
        if all(monitor.update(next(stream), BATCH) for _ in range(quiet // BATCH)):
            late = (k * BATCH for k, a in enumerate(stream, 1) if not monitor.update(a, BATCH))
            found.append(next(late, math.inf))
    return sorted(found)


def held(rate: Callable[[int], float], streams: int) -> float:
    """Return the share of streams all of whose intervals hold the average rate of their rows."""
    whole = 0
    for seed in tqdm(range(streams), leave=False):
        monitor, sums, kept = FPRMonitor(BUDGET, confidence=CONFIDENCE), [0.0], True
        for k, alerts in enumerate(batches(rate, 1_000_000, seed)):
            monitor.update(alerts, BATCH)
            sums.append(sums[-1] + rate(k * BATCH))
            if k % 10 == 0:
                status = monitor.status()
                n = status.recent_rows // BATCH
                kept &= status.low <= (sums[-1] - sums[-1 - n]) / n <= status.high
        whole += kept
    return whole / streams


def shown(rows: float) -> str:
    return f"over {LONGEST_DELAY:,}" if math.isinf(rows) else f"{rows:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=400)
    streams = parser.parse_args().streams
    print(
        "| true FPR | monitor | test of each batch | test of all rows so far |\n|---|---|---|---|"
    )
    for rate in (0.005, 0.0045, 0.0035):
        shares = " | ".join(f"{share:.3f}" for share in false_alarms(rate, streams))
        print(f"| {rate:.2%} | {shares} |", flush=True)
    print("\n| quiet rows | FPR before | FPR after | rows to the alarm: median (90 %) |"
          " from the first row alone |\n|---|---|---|---|---|")  # fmt: skip
    for quiet, before, after in (
        (0, 0.005, 0.01),
        (100_000, 0.005, 0.01),
        (1_000_000, 0.005, 0.01),
        (1_000_000, 0.004, 0.01),
        (1_000_000, 0.004, 0.02),
        (1_000_000, 0.004, 0.0075),
    ):
        cells = []
        for make in (lambda: FPRMonitor(BUDGET, confidence=CONFIDENCE), FromFirstRow):
            rows = delays(make, quiet, before, after, streams // 4)
            middle, late = rows[len(rows) // 2], rows[len(rows) * 9 // 10]
            cells.append(f"{shown(middle)} ({shown(late)})")
        print(f"| {quiet:,} | {before:.2%} | {after:.2%} | {cells[0]} | {cells[1]} |", flush=True)
    print("\n| FPR | streams whose intervals all hold |\n|---|---|")
    for name, rate in (
        ("0.5 %", lambda _: 0.005),
        ("from 0.2 to 0.8 % and back, six times", lambda n: 0.005 - 0.003 * math.cos(n / 26_500)),
    ):
        print(f"| {name} | {held(rate, streams // 4):.3f} |", flush=True)


if __name__ == "__main__":
    main()
