"""Adapters (LoRA) merged into a checkpoint: read from PEFT's directories and llama.cpp's GGUF files."""
