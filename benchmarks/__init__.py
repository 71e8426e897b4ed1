"""Measurements, each run as a module from the checkout: `python -m benchmarks.<name>`."""
