"""Dual Chunk Attention in PyTorch: what the right answer is.

It shares no code with the native runtime and computes its positions itself. Nothing here imports torch
until one of its modules is imported.
"""
