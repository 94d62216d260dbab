"""The scheme of the model that vLLM is about to build or run in this process."""

from __future__ import annotations

from typing import Any

from vllm.config import VllmConfig, get_current_vllm_config_or_none

from dca_vllm.scheme import ADDITIONAL_KEY, CONFIG_KEY, Scheme, find_scheme


def current_scheme() -> Scheme | None:
    """None: no model, or one that runs plain attention. Raises SchemeError."""
    config = get_current_vllm_config_or_none()
    return None if config is None else scheme_of(config)


def scheme_of(config: VllmConfig) -> Scheme | None:
    """What --additional-config asks for, else what the model's config.json states. Raises SchemeError."""
    if config.model_config is None:
        return None
    section: Any = getattr(config.model_config.hf_text_config, CONFIG_KEY, None)
    asked: Any = None
    if isinstance(config.additional_config, dict):
        asked = config.additional_config.get(ADDITIONAL_KEY)
    return find_scheme(section, asked)
