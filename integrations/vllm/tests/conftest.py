"""Triton runs on the card where there is one, else interpreted on the CPU; it reads this when imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
