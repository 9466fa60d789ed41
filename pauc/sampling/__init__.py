"""The batch sampler, and what it draws from: a permutation, the positives, the hard negatives."""
