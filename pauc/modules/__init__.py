"""The losses as modules: they hold the queue and call the pure functions."""
