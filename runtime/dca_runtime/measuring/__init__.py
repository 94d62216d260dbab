"""How fast a model runs: one sequence, and many in one step."""
