"""Dual Chunk Attention (An et al., ICML 2024, arXiv 2402.17463) as a plug-in of vLLM."""
