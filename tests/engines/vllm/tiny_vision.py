"""A vision model of a megabyte: Idefics3 with random weights, the demo's tokenizer and four more tokens.

It understands nothing, and what it says depends on every image that it is shown: enough to see that the right image
reaches it. `python -m tests.engines.vllm.tiny_vision FOLDER` makes it.
"""

import json
import sys
from pathlib import Path

from engines.demo.tokenizer import CHAT_TEMPLATE, build_tokenizer, save_tokenizer, token_id

IMAGE = "<image>"
_TOKENS = (IMAGE, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_EDGE = 32
"""Pixels of an image's edge: it is scaled to a square of that."""
_PATCH = 8
_SCALE = 2
"""Of the patches of an image, so many by so many become one token."""
_HIDDEN = 64
_SEED = 0
_TEXT_PART = "{{- part.text -}}{%- endif -%}"
_TEXT_OR_IMAGE_PART = "{{- part.text -}}{%- elif part.type == 'image' -%}{{- '" + IMAGE + "' -}}{%- endif -%}"


def make(folder: Path) -> None:
    """Writes the model into a folder: the same every time.

    Args:
        folder: An existing one; files of the same names are replaced.
    """
    import torch
    from tokenizers import AddedToken
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in _TOKENS])
    save_tokenizer(tokenizer, folder)
    assert _TEXT_PART in CHAT_TEMPLATE
    template = CHAT_TEMPLATE.replace(_TEXT_PART, _TEXT_OR_IMAGE_PART)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    end, padding = token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")
    config = Idefics3Config(
        image_token_id=token_id(tokenizer, IMAGE),
        pad_token_id=padding,
        scale_factor=_SCALE,
        tie_word_embeddings=True,
        vision_config={
            "hidden_size": _HIDDEN,
            "intermediate_size": _HIDDEN,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": _EDGE,
            "patch_size": _PATCH,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": _HIDDEN,
            "intermediate_size": _HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": _HIDDEN,
            "max_position_embeddings": 2048,
            "eos_token_id": end,
            "pad_token_id": padding,
            "tie_word_embeddings": True,
        },
        dtype="bfloat16",
        eos_token_id=end,
    )
    torch.manual_seed(_SEED)
    model = Idefics3ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                # A token becomes what is around it, and hardly itself: else it would say itself again and again.
                weight.normal_(std=0.02 if "embed_tokens" in name else 0.3)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end, "pad_token_id": padding}))
    edge = {"longest_edge": _EDGE}
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_image_splitting": False,
        "size": edge,
        "max_image_size": edge,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tokens = (_EDGE // _PATCH // _SCALE) ** 2
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Idefics3Processor", "image_seq_len": tokens})
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
