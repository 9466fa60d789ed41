"""The losses as modules: they hold the queue's buffers and call the pure functions."""
