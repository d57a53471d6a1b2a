"""What a GPU kernel does through each of its parameters: whether it reads or writes there."""

from interop.ledger.kernels.seen import Kernels
from interop.ledger.kernels.values import Access

__all__ = ["Access", "Kernels"]
