"""The kernels, by the order in which a step launches them; nothing outside of `pauc.triton` calls one.

They are compiled for a GPU, or run line by line where ``TRITON_INTERPRET=1``.
"""
