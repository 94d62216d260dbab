"""An engine: one pool of keys and values, and many sequences that one step runs together."""

from dca_runtime.engine.engine import Choice, Engine, EngineInfo, Item
from dca_runtime.engine.sequence import TokenSequence

__all__ = ["Choice", "Engine", "EngineInfo", "Item", "TokenSequence"]
