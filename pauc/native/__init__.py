"""The step of the partial AUC as one native call on a CPU; ``csrc`` holds the C++."""
