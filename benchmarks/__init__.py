"""gumbel_ext beside its peers: ``python -m benchmarks``."""
