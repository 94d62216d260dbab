"""Run GGUF models with Dual Chunk Attention: the Python face of libdca."""
