# Numbers where nothing else is said are addresses.

def step(
    wide: bool,  # float64
    validate: bool,
    shape: tuple[int, int, int, bool],  # rows, classes, the queue's size, multi-label
    ignore_index: int,
    options: tuple[int | float, ...],
    levels: list[float],
    batch: tuple[int, ...],
    queue: tuple[int, ...],
    bounds: int,
    found: tuple[int, ...],
) -> float | None: ...
def enter(
    wide: bool,
    shape: tuple[int, int, int, bool],
    ignore_index: int,
    batch: tuple[int, ...],
    queue: tuple[int, ...],
) -> None: ...
