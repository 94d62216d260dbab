"""Prompts on disk: pages of keys and values by the tokens they stand for, found again by any process."""

from dca_runtime.prompt_store.store import Prompts, PromptStore

__all__ = ["PromptStore", "Prompts"]
