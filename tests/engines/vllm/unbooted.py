"""What of a vLLM engine works without one: vLLM's renderer, with its tokenizer and chat template."""

from types import SimpleNamespace
from typing import Any

from engines.vllm.options import VllmOptions


def rendering(**options: Any) -> Any:
    """Rendering as an engine with these options has it."""
    from vllm.renderers.registry import renderer_from_config

    from engines.vllm.arguments import chat_template, engine_args
    from engines.vllm.environment import quiet_environment
    from engines.vllm.rendering import Rendering

    quiet_environment()
    chosen = VllmOptions(**options)
    config = engine_args(chosen, 1).create_engine_config()
    llm = SimpleNamespace(model_config=config.model_config, renderer=renderer_from_config(config))
    return Rendering(llm, chosen, chat_template(chosen))
