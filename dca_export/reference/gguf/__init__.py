"""The model that a GGUF file states, as transformers has it, by tables of the reference's own."""
