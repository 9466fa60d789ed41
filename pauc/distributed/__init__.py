"""Training on many ranks as on one."""

from pauc.distributed.gather import gather_rows

__all__ = ["gather_rows"]
