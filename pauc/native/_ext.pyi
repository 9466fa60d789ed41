# The native code takes tensors by their addresses: an int is an address where nothing else is said,
# and 0 stands for a tensor that is not given. The caller answers for dtypes, sizes and lifetimes.

def step(
    wide: bool,  # the floating tensors are float64, not float32
    validate: bool,  # decline illegal targets and weights
    shape: tuple[int, int, int, bool],  # rows, classes, slots of the queue, multi-label
    ignore_index: int,
    options: tuple[int | float, ...],  # NativeOptions.numbers
    levels: list[float],  # FPR of each knot, ascending
    # logits, targets, iid, weight; the fields of QueueState; bounds [classes, 4, 2], which are
    # written to; the fields of _Found, those of Measures in it, which are written to
    tensors: tuple[int, ...],
) -> float | None:  # the factor of a class's loss in the loss; None: the step is declined
    ...
def enter(
    wide: bool,
    shape: tuple[int, int, int, bool],
    ignore_index: int,
    # logits, targets, iid, weight; the fields of QueueState, which are written to
    tensors: tuple[int, ...],
) -> None: ...
def sweep_pairs(
    terms: tuple[int, int],  # how many; above's constant and powers, then below's, of each
    positives: tuple[int, int, int, int],  # rows, scores ascending, weights, sums that are added to
    negatives: tuple[int, int, int, int],
) -> None: ...
def log_loss(
    rows: int,
    scores: int,
    weights: int,
    options: tuple[float, float, float],  # factor, largest step, least curvature
    gradient: int,  # written to, and so is the next
    hessian: int,
) -> None: ...
def band_round(
    rows: int,
    scores: int,
    weights: int,
    positives: int,
    positive: int,  # [positives] rows, ascending
    band: tuple[float, float, int],  # alpha, beta, interpolation
    options: tuple[float, float, float, float],  # both weights, largest step, least curvature
    terms: int,  # two, as sweep_pairs has them
    gradient: int,  # written to, and so is the next
    hessian: int,
) -> bool: ...  # whether both sides have a weight, and a negative is in the band
def marked_rows(rows: int, marked: int, found: int) -> int: ...  # how many, written to found
def ascending_order(rows: int, scores: int, order: int) -> None: ...  # written to order
