"""What the engine's thread does: who gets rows of the next step, and which prefixes are kept."""
