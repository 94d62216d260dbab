"""Tasks of lm-evaluation-harness: L-Eval's closed ones (leval.py), and SCROLLS's with examples (scrolls.py).

`--include_path` takes this folder; the data are those of the benchmarks, where `--metadata` says.
"""
