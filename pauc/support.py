"""What a backend can compute: an allow-list of options and of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from pauc.config import LossConfig, PAUCConfig

_DEFAULTS = PAUCConfig()


def without_idle_options(config: LossConfig) -> LossConfig:
    """Return the config with its defaults for options that have no effect beside the others.

    So that a backend is asked only for what changes the numbers.
    """
    if not isinstance(config, PAUCConfig):
        return config
    if config.surrogate == "pairwise":
        config = config._replace(n_knots=_DEFAULTS.n_knots, edge_gradient=_DEFAULTS.edge_gradient)
    if config.surrogate == "trapezoid":
        config = config._replace(link=_DEFAULTS.link)
    if not isinstance(config.beta, Tensor):
        config = config._replace(max_beta=_DEFAULTS.max_beta)
    return config


# Stands for every value that an option may have.
ANY: tuple[object, ...] = ()


class Support(NamedTuple):
    """Which configs a backend can compute: an allow-list, since an option that a backend does not
    know would be ignored in silence.

    Attributes:
        backend: its name, for messages.
        defaults: of the kind of config that it computes.
        values: for each option that the backend reads, the values that it knows, or :data:`ANY`.
        at_default: the options that must have their defaults. So must any option that stands
            nowhere here; a test asks that every option has been given a place.
        tensors: whether an option may be a tensor.
    """

    backend: str
    defaults: LossConfig
    values: Mapping[str, tuple[object, ...]]
    at_default: tuple[str, ...] = ()
    tensors: bool = False

    def refusal(self, config: LossConfig) -> str | None:
        """Return which option the backend cannot compute, and why; None if it can all."""
        if type(config) is not type(self.defaults):
            wanted, given = type(self.defaults).__name__, type(config).__name__
            return f"{self.backend} takes a {wanted}, got a {given}"
        config = without_idle_options(config)
        for name, value, default in zip(type(config)._fields, config, self.defaults, strict=True):
            if isinstance(value, Tensor):
                if not (self.tensors and name in self.values):
                    return f"{self.backend} takes {name} as a number, not as a tensor"
                continue
            known = self.values.get(name, (default,))
            if known != ANY and value not in known:
                return f"{self.backend} takes {name}={_listed(known)} only, got {name}={value!r}"
        return None


def _listed(values: tuple[object, ...]) -> str:
    return " or ".join(repr(value) for value in values)
