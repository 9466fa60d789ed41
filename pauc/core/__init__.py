"""The arithmetic of the losses in torch operators: pure functions on explicit tensors."""
