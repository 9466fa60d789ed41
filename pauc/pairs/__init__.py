"""Sums of a link over pairs of scores, in memory that is linear in the scores."""
