"""Retrieval tasks: something is hidden in a text, and asked for at its end."""
