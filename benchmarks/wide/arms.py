"""The arms of the wide study. Every one may start from the log-odds or from the layer's default."""

from .training import Arm

GENTLE = {"iid_share": 0.9, "positive_share": 0.05, "hard_fraction": 0.1}
NARROW = {"hard_fraction": 0.02}
TRAPEZOID = {
    "surrogate": "trapezoid",
    "edge_gradient": "implicit",
    "tau_scale": "iqr",
    "temperature": 0.1,
}
ALONE = {"bce_weight": 0.0, "weight_scale": "unit"}

_FROM_DEFAULT = {
    "BCE": Arm("bce"),
    "BCE, class-weighted": Arm("bce", weight_power=0.5),
    "focal": Arm("focal"),
    "BCE, sampler": Arm("bce", sampler={}),
    "BCE, sampler of the top 2 %": Arm("bce", sampler=NARROW),
    "BCE, gentle sampler": Arm("bce", sampler=GENTLE),
    "BCE, sampler, EMA": Arm("bce", sampler={}, averaged=True),
    "preset": Arm("preset"),
    "preset, sampler": Arm("preset", sampler={}),
    "preset, sampler of the top 2 %": Arm("preset", sampler=NARROW),
    "preset, gentle sampler": Arm("preset", sampler=GENTLE),
    "preset, sampler, EMA": Arm("preset", sampler={}, averaged=True),
    "preset, implicit trapezoid": Arm("preset", options=TRAPEZOID),
    "implicit trapezoid alone": Arm("preset", options={**TRAPEZOID, **ALONE}),
    "BCE, sampler, ensemble": Arm("bce", sampler={}, members=5),
    "preset, sampler, ensemble": Arm("preset", sampler={}, members=5),
}
ARMS = {
    **_FROM_DEFAULT,
    **{
        f"{name}, from log-odds": arm._replace(from_log_odds=True)
        for name, arm in _FROM_DEFAULT.items()
    },
}
