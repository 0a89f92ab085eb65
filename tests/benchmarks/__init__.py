"""Measurements of the daemon against its budgets: ``python -m tests.benchmarks [NAME…]``."""
