"""The kernels of a step. Nothing outside of `pauc.triton` calls one.

They are compiled for a GPU, or run line by line where ``TRITON_INTERPRET=1``.
"""
