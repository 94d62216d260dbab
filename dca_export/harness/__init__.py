"""The model `dca` of lm-evaluation-harness: the field's benchmarks over an engine of many sequences.

Python reads this at its start where the package is installed (``startup``); nothing is imported here.
"""
