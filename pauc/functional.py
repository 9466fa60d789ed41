"""The loss as a pure function: tensors and the queue's state in, loss and new state out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pauc.config import PAUCOptions, make_config
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms
from pauc.native.step import entered, native_options, pauc_step

if TYPE_CHECKING:
    from typing_extensions import Unpack


def pauc_loss_fn(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    **options: Unpack[PAUCOptions],
) -> tuple[Tensor, QueueState]:
    """Return one minus the partial AUC over a band of FPR, and the queue with the batch in it.

    Pure: nothing is kept between calls but in the returned queue, and no argument is changed. The
    loss is computed from the batch and the queue as given; the batch enters afterwards.

    Args:
        logits: ``[N, C]`` raw scores, any floating dtype; ``C = 1`` is binary. The arithmetic is
            float32, or float64 if the logits or the queue are.
        targets: ``[N]`` or ``[N, 1]``: class indices (binary: 0 or 1) or ``ignore_index``, whose
            rows are as good as absent. One-vs-rest for ``C > 1``. With a queue that was made with
            ``multilabel=True``, ``[N, C]`` of 0, 1 and ``ignore_index``: each class is then the
            binary loss of its own column, and a row is absent for the classes that ignore it.
        queue: from :func:`pauc.init_queue` or the previous call; of size 0 for no memory.
        iid_mask: ``[N]`` bool, False for rows that were added by class or for hardness: they take
            no part in edges and scale. None: all rows are iid.
        sample_weight: ``[N]``, non-negative, weights the positives in the numerator. None: ones.
        validate_args: check targets and weights, and size work arrays by what is in them. Both
            read data: switch it off under :func:`torch.func.vmap` and where a host
            synchronisation matters. Always off inside a compiled graph.
        **options: fields of :class:`pauc.PAUCConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        iid negatives, no dispersion among its reference scores or, pairwise, no negative in the
        band. With no class left the loss is 0 (or the BCE term), still attached to the graph.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    terms = pauc_loss_terms(
        logits,
        targets,
        queue,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        **options,
    )
    return terms.loss, terms.queue


def pauc_loss_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    **options: Unpack[PAUCOptions],
) -> PAUCTerms:
    """Return the loss of :func:`pauc_loss_fn` with its per-class parts and diagnostics.

    Args, Raises: as for :func:`pauc_loss_fn`, and
        diagnostics: also compute ``stats``, see :func:`pauc.core.diagnostics.diagnose`.
    """
    config = make_config(options)
    terms, entry, _ = pauc_step(
        logits,
        targets,
        queue,
        None,
        config,
        native_options(config),
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        diagnostics=diagnostics,
    )
    return terms if entry is None else terms._replace(queue=entered(queue, entry))
