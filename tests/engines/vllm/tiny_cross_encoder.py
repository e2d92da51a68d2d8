"""A cross-encoder of a megabyte: BERT with random weights, one label, and a vocabulary of letters and some words.

What it says of a pair is worth nothing, and depends on each token, its place, and whether it is the query's or the
document's: enough to see that pairs reach it as they reach it in transformers.
"""

from pathlib import Path

CONTEXT_LENGTH = 64
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "cat", "dog", "and", "a", "river", "mill", "turns", "wheel", "water", "bread", "is", "what")


def make(folder: Path) -> None:
    """Writes the model into a folder: the same every time.

    Args:
        folder: An existing one; files of the same names are replaced.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    vocabulary = dict.fromkeys([*_MARKS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_WORDS])
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=CONTEXT_LENGTH)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        num_labels=1,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                # So that scores differ, and by more than the types of the arithmetic.
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
