"""Training on many ranks as on one."""

from pauc.distributed.ddp import exclude_queues
from pauc.distributed.gather import gather_rows

__all__ = ["exclude_queues", "gather_rows"]
