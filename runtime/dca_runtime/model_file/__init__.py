"""What a model is named by, and what its file says of itself."""
