"""Measuring: exact search, metrics, intervals and tests, baselines, the official form."""
