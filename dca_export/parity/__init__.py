"""Is the native runtime right? Its logits against those of the PyTorch reference, for the same tokens."""
