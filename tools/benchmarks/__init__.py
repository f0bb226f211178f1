"""Benchmarks of Stigmer's store. Run by `tools/bench`."""
