def step(
    wide: bool,  # float64
    shape: tuple[int, int, int, int],  # rows, classes, the queue's size and fill
    options: tuple[int, int, int, bool, bool, float],
    levels: list[float],
    batch: tuple[int, ...],  # addresses from here on
    queue: tuple[int, ...],
    bounds: int,
    found: tuple[int, ...],
) -> bool: ...
