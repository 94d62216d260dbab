"""L-Eval's closed tasks (An et al. 2024, arXiv 2307.11088) as tasks of lm-evaluation-harness.

`--include_path` takes this folder; the data are L-Eval's own files, which `--metadata` names.
"""
