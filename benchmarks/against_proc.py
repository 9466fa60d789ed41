"""The metrics and intervals against R's pROC (Robin et al. 2011), on pROC's own example data.

    python benchmarks/against_proc.py      # needs Rscript with the package pROC

R computes; this script reads the scores that R used and compares. What must be equal is compared to
1e-9, bootstrap intervals are shown side by side.
"""

from __future__ import annotations

import csv
import io
import subprocess
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.intervals import bootstrap_interval, partial_auc_interval
from pauc.metrics import partial_auc

R = r"""
suppressMessages(library(pROC)); data(aSAH); set.seed(1)
cat("pROC", as.character(packageVersion("pROC")), "\n")
for (n in c("s100b", "ndka", "wfns")) {
  x <- as.numeric(aSAH[[n]])
  r <- roc(aSAH$outcome, x, direction = "<", levels = c("Good", "Poor"), quiet = TRUE)
  low <- roc(aSAH$outcome, x, direction = "<", levels = c("Good", "Poor"), quiet = TRUE,
             partial.auc = c(1, .9), partial.auc.focus = "specificity")
  part <- function(...) auc(r, partial.auc.focus = "specificity", ...)
  values <- c(auc(r), var(r, method = "delong"), part(partial.auc = c(1, .9)),
              part(partial.auc = c(1, .9), partial.auc.correct = TRUE),
              part(partial.auc = c(.95, .8)),
              ci.auc(low, boot.n = 10000, progress = "none")[c(1, 3)])
  cat(n, sprintf("%.12f", values), "\n")
  cat(x, "\n", as.integer(aSAH$outcome == "Poor"), "\n")
}
"""


class FromR(NamedTuple):
    auc: float
    delong_variance: float
    partial: float  # FPR up to 0.1
    mcclish: float  # the same, standardised
    band: float  # FPR from 0.05 to 0.2
    boot_low: float  # of `partial`
    boot_high: float


def delong_variance(scores: Tensor, targets: Tensor) -> float:
    """Read off the interval of the whole curve, which is symmetric on the logit scale."""
    level = 0.95
    found = partial_auc_interval(scores, targets, confidence=level)
    z = torch.distributions.Normal(0.0, 1.0).icdf(
        torch.tensor((1 + level) / 2, dtype=torch.float64)
    )
    error = (found.estimate.logit() - found.low.logit()) / z
    return float((error * found.estimate * (1 - found.estimate)) ** 2)


def main() -> None:
    output = subprocess.run(["Rscript", "-e", R], capture_output=True, text=True, check=True)
    version, *lines = output.stdout.strip().splitlines()
    print(f"{version}: AUC, DeLong variance, partial AUCs equal to 1e-9; bootstrap side by side")
    for head, xs, ys in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, *numbers = head.split()
        theirs = FromR(*map(float, numbers))
        scores, targets = (_row(line) for line in (xs, ys))
        ours = {
            "auc": float(partial_auc(scores, targets)),
            "delong_variance": delong_variance(scores, targets),
            "partial": float(partial_auc(scores, targets, beta=0.1, normalize="none")),
            "mcclish": float(partial_auc(scores, targets, beta=0.1, normalize="mcclish")),
            "band": float(partial_auc(scores, targets, 0.05, 0.2, normalize="none")),
        }
        for what, value in ours.items():
            expected = getattr(theirs, what)
            if abs(value - expected) > 1e-9:
                raise SystemExit(f"{name}: {what} is {value}, in pROC {expected}")
        boot = bootstrap_interval(
            lambda s, t: partial_auc(s, t, beta=0.1, normalize="none"),
            scores,
            targets,
            n_resamples=10_000,
        )
        print(
            f"{name:6} partial AUC {theirs.partial:.4f}, "
            f"bootstrap [{boot.low:.4f}, {boot.high:.4f}], "
            f"in pROC [{theirs.boot_low:.4f}, {theirs.boot_high:.4f}]"
        )


def _row(line: str) -> Tensor:
    (values,) = csv.reader(io.StringIO(line.strip()), delimiter=" ")
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


if __name__ == "__main__":
    main()
