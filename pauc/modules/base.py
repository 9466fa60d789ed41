"""What the loss modules have in common: the call, many ranks, and warnings."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from pauc.checks import check_flag, check_int
from pauc.config import LossConfig, options_of
from pauc.core.step import PAUCTerms
from pauc.distributed.gather import check_process_group, count_positives, gather_rows, is_gathering
from pauc.modules.moving import MovingConfig
from pauc.presets import STARVED, recommend_queue_size

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class QueuedLoss(MovingConfig):
    """A holder of the queue around a pure function; not to be used by itself.

    A loss implements :meth:`_terms`, the call of its function, and says by :meth:`_budget` on how
    small a part of the reference rows it rests, if it does.

    Args:
        config: the options of the loss, checked.
        num_classes, multilabel, queue_size, update_queue_in_eval, gather_distributed,
            process_group, validate_args: see :class:`pauc.PAUCAtBudgetLoss`, and there what
            gathering means.
    """

    def __init__(
        self,
        config: LossConfig,
        num_classes: int,
        *,
        multilabel: bool,
        queue_size: int,
        update_queue_in_eval: bool,
        gather_distributed: bool | None,
        process_group: ProcessGroup | None,
        validate_args: bool,
    ) -> None:
        super().__init__()
        check_int("num_classes", num_classes, 1)
        check_flag("multilabel", multilabel)
        check_int("queue_size", queue_size, 0)
        check_flag("update_queue_in_eval", update_queue_in_eval)
        check_flag("validate_args", validate_args)
        if gather_distributed is not None and not isinstance(gather_distributed, bool):
            raise TypeError(
                f"gather_distributed must be a bool or None, got {gather_distributed!r}"
            )
        check_process_group(process_group)
        self._take_config(config)
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.queue_size = queue_size
        self.update_queue_in_eval = update_queue_in_eval
        self.gather_distributed = gather_distributed
        self.process_group = process_group
        self.validate_args = validate_args
        self._warned: set[str] = set()
        self._make_queue(self._own_rows())

    def _own_rows(self) -> int:
        """Return how many rows of the queue this rank keeps."""
        return self.queue_size

    def _terms(self, logits: Tensor, targets: Tensor, diagnostics: bool, **side: Any) -> PAUCTerms:
        """Return the pure function's result for the queue as it is.

        ``side`` are ``iid_mask``, ``sample_weight`` and ``validate_args``.
        """
        raise NotImplementedError

    def _budget(self) -> tuple[float, str] | None:
        """Return the share of the reference rows that the loss rests on, and how to name it."""
        return None

    def _step(
        self, logits: Tensor, targets: Tensor, diagnostics: bool, **side: Any
    ) -> tuple[PAUCTerms, int]:
        """Return the terms of all ranks' rows, and how many rows those are."""
        if not is_gathering(self.gather_distributed, self.process_group):
            return self._terms(logits, targets, diagnostics, **side), logits.shape[0]
        rows = gather_rows(logits, targets, self.queue, self.config, **side, **self._agreement())
        side |= {"iid_mask": rows.iid_mask, "sample_weight": rows.sample_weight}
        terms = self._terms(rows.logits, rows.targets, diagnostics, **side)
        if diagnostics:
            own = count_positives(
                targets, self.num_classes, self.config.ignore_index, self.multilabel
            )
            terms.stats["grad_pos_count"] = torch.where(terms.valid, own, 0)
        return terms, rows.logits.shape[0]

    def _agreement(self) -> dict[str, Any]:
        """Return who the ranks are, and what must be the same on all of them."""
        return {
            "settings": {**self._settings(), "training": self.training},
            "group": self.process_group,
        }

    # Each return form twice: flags by keyword, and by position behind iid_mask.
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: Literal[False] = ...,
        return_diagnostics: Literal[False] = ...,
        *,
        sample_weight: Tensor | None = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        *,
        return_per_class: Literal[True],
        return_diagnostics: Literal[False] = ...,
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None,
        return_per_class: Literal[True],
        return_diagnostics: Literal[False] = ...,
        *,
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: Literal[False] = ...,
        *,
        return_diagnostics: Literal[True],
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None,
        return_per_class: Literal[False],
        return_diagnostics: Literal[True],
        *,
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        *,
        return_per_class: Literal[True],
        return_diagnostics: Literal[True],
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None,
        return_per_class: Literal[True],
        return_diagnostics: Literal[True],
        *,
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: bool = ...,
        return_diagnostics: bool = ...,
        *,
        sample_weight: Tensor | None = ...,
    ) -> Tensor | tuple[Any, ...]: ...
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = None,
        return_per_class: bool = False,
        return_diagnostics: bool = False,
        *,
        sample_weight: Tensor | None = None,
    ) -> Tensor | tuple[Any, ...]:
        """Return the loss; the batch then enters the queue (in ``eval()`` only if asked).

        Args:
            logits, targets, iid_mask, sample_weight: see :func:`pauc.pauc_loss_fn`.
            return_per_class: also return the losses ``[C]`` (nan where invalid) and ``valid``
                ``[C]`` bool.
            return_diagnostics: also return ``stats``, ``[C]`` tensors that the loss's class
                describes. With gathering, they are those of all ranks' rows; ``grad_pos_count`` is
                this rank's.

        Returns:
            ``loss``, ``(loss, per_class, valid)``, ``(loss, stats)`` or
            ``(loss, per_class, valid, stats)``.

        Raises:
            TypeError, ValueError: see :func:`pauc.pauc_loss_fn`.
            RuntimeError, ValueError: see :func:`pauc.distributed.gather_rows`.
        """
        terms, batch_rows = self._step(
            logits,
            targets,
            return_diagnostics,
            iid_mask=iid_mask,
            sample_weight=sample_weight,
            validate_args=self.validate_args,
        )
        if self.validate_args and not torch.compiler.is_compiling():
            self._warn(terms, batch_rows)
        if self.training or self.update_queue_in_eval:
            self._store(terms.queue)
        returned: tuple[Any, ...] = (terms.loss,)
        if return_per_class:
            returned += (terms.per_class, terms.valid)
        if return_diagnostics:
            returned += (terms.stats,)
        return returned if len(returned) > 1 else terms.loss

    if TYPE_CHECKING:
        __call__ = forward  # so that the types follow the flags in a call, too

    def extra_repr(self) -> str:
        """Return the configuration: the number of classes, the queue, then every option."""
        shown = {**self._settings(), "gather_distributed": self.gather_distributed}
        return f"{self.num_classes}, " + ", ".join(f"{k}={v!r}" for k, v in shown.items())

    def _settings(self, **more: object) -> dict[str, object]:
        return {
            "queue_size": self.queue_size,
            "multilabel": self.multilabel,
            **options_of(self.config),
            "update_queue_in_eval": self.update_queue_in_eval,
            **more,
            "validate_args": self.validate_args,
        }

    def _warn(self, terms: PAUCTerms, batch_rows: int) -> None:
        """Warn, once per kind, about what makes the numbers worth less than they look."""
        found = {
            "degenerate": self._no_dispersion(terms),
            "starved": self._starvation(terms, batch_rows),
            "subsampled": self._subsampling(batch_rows),
        }
        for kind, message in found.items():
            if message and kind not in self._warned:
                self._warned.add(kind)
                # The caller is behind forward and two frames of nn.Module.
                warnings.warn(f"{type(self).__name__}: {message}.", UserWarning, stacklevel=5)

    def _no_dispersion(self, terms: PAUCTerms) -> str:
        # Lists: an operator on a few numbers costs more than they do.
        classes = [c for c, degenerate in enumerate(terms.degenerate.tolist()) if degenerate]
        if not classes:
            return ""
        shown = f"class {', '.join(map(str, classes[:5]))}" + (", ..." if classes[5:] else "")
        return (
            f"the reference scores of {shown} ({len(classes)} of {self.num_classes}) have no "
            f"dispersion (tau_scale={self.config.tau_scale!r}, "
            f"temperature={self.config.temperature}): all equal, or too few for the scale. Such "
            "classes are left out of the loss. Cure: a larger queue_size or batch, another "
            "tau_scale or a wider band, or logits that have not collapsed"
        )

    def _starvation(self, terms: PAUCTerms, batch_rows: int) -> str:
        budget = self._budget()
        if budget is None:
            return ""
        width, where = budget
        smallest = min(terms.ref_count.tolist())
        # Without any reference row there is no share to extrapolate from.
        if smallest == 0 or smallest * width >= STARVED:
            return ""
        if int(self.queue_fill) < self.queue_scores.shape[1]:
            return ""
        # At most 1: the parts of a sharded queue may together hold more than queue_size.
        share = min(smallest / (batch_rows + self.queue_size), 1.0)
        rows = recommend_queue_size(width, relative_error=STARVED**-0.5, positive_rate=1 - share)
        enough = rows - batch_rows
        return (
            f"band starvation: {smallest} reference rows put {smallest * width:.3g} in {where}, "
            f"fewer than {STARVED}, so that its edges are noise. Cure: queue_size={enough} or more"
        )

    def _subsampling(self, batch_rows: int) -> str:
        cap = getattr(self.config, "max_pool_size", None)  # not an option of every loss
        if cap is None:
            return ""
        rows = batch_rows + int(self.queue_fill)
        if rows <= cap:
            return ""
        return (
            f"the pool of {rows} rows is above max_pool_size={cap}: the surrogate sees a random, "
            "reweighted part of it"
        )
