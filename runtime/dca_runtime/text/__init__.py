"""Text and token ids: the tokenizer of a file, streaming, chat templates, stop strings."""
