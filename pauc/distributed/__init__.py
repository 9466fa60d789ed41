"""Training on many ranks as on one."""

from pauc.distributed.gather import exclude_queues, gather_rows

__all__ = ["exclude_queues", "gather_rows"]
