"""Trains the demo model from nothing: ``python -m engines.demo.train --out DIR``."""

# ruff: noqa: S311, T201 - randomness here has no secrets, and a command speaks to its terminal

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Threads that spin while they wait starve each other where the cores are shared. Read on import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from engines.demo import MODEL_PATH
from engines.demo.batches import Encoder, batches
from engines.demo.batches import Sequence as TokenSequence
from engines.demo.network import Network, Shape
from engines.demo.tokenizer import (
    END_OF_TEXT,
    IM_END,
    MAX_LENGTH,
    build_tokenizer,
    save_tokenizer,
    shared_features,
    token_id,
)

_SEED: Final = 7
_WARMUP_STEPS: Final = 100
# Where the first and second stage end, as shares of the steps.
_EASY: Final = 0.3
_MIXED: Final = 0.65
_PLATEAU: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train.

    Attributes:
        out: Directory to write; made if it does not exist.
        steps: Number of optimizer steps.
        tokens_per_batch: Tokens of one step, padding counted.
        peak: Highest learning rate.
        save_every: Steps between two saves of what there is so far.
        workers: Processes that share each step. They use the cores far better than the threads
            of one process do, since a model so small has no operation that is worth splitting.
    """

    out: Path
    steps: int
    tokens_per_batch: int
    peak: float
    save_every: int
    workers: int


def train(plan: Plan) -> None:
    """Trains the model and writes the directory that vLLM loads."""
    with tempfile.TemporaryDirectory() as directory:
        torch.multiprocessing.spawn(_work, (plan, f"file://{directory}/store"), nprocs=plan.workers)


def _work(rank: int, plan: Plan, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=plan.workers)
    torch.manual_seed(_SEED)
    rng = random.Random(_SEED + rank)
    tokenizer = build_tokenizer()
    shape = Shape(vocabulary=tokenizer.get_vocab_size(), max_length=MAX_LENGTH)
    network = Network(shape, shared_features(tokenizer))
    weights = list(network.parameters())
    if rank == 0:
        print(f"{sum(weight.numel() for weight in weights):,} parameters")
    matrices = [w for n, w in network.named_parameters() if n.endswith("_proj.weight")]
    others = [w for n, w in network.named_parameters() if not n.endswith("_proj.weight")]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=plan.peak, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.peak, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    started = time.monotonic()
    losses: list[float] = []
    encoder = Encoder(tokenizer)
    share = plan.tokens_per_batch // plan.workers
    stages = [
        # Single turns first: copying and comparing are found sooner where there is less to mistake.
        (_EASY, batches(encoder, rng, tokens_per_batch=share, turns=1)),
        (_MIXED, batches(encoder, rng, tokens_per_batch=share, whole_share=0.02)),
        # Each of a thousand numbers must be told from all others: that takes the most examples.
        (1.0, batches(encoder, rng, tokens_per_batch=share, whole_share=0.02, counts=0.5)),
    ]
    for step in range(plan.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.peak * _schedule(step, plan.steps)
        batch = next(next(stage for end, stage in stages if step < end * plan.steps))
        tokens, positions, wanted, targets = _tensors(batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(tokens, positions, wanted)
        loss = functional.cross_entropy(logits, targets)
        loss.backward()
        _average_gradients(weights, plan.workers)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if rank > 0:
            continue
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1} loss {sum(losses[-50:]) / 50:.5f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            plan.out.mkdir(parents=True, exist_ok=True)
            _save(network, shape, tokenizer, plan.out)
    torch.distributed.destroy_process_group()


def _average_gradients(weights: Sequence[Tensor], workers: int) -> None:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    parts = flat.div_(workers).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, a plateau, then half a cosine down to nothing."""
    if step < _WARMUP_STEPS:
        return (step + 1) / _WARMUP_STEPS
    decayed = max(0.0, (step / steps - _PLATEAU) / (1 - _PLATEAU))
    return 0.5 * (1 + math.cos(math.pi * decayed))


def _tensors(batch: Sequence[TokenSequence]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = max(len(sequence.tokens) for sequence in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    positions = torch.zeros(len(batch), width, dtype=torch.long)
    learned = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, sequence in enumerate(batch):
        length = len(sequence.tokens)
        tokens[row, :length] = torch.tensor(sequence.tokens)
        positions[row, :length] = torch.tensor(sequence.positions)
        learned[row, :length] = torch.tensor(sequence.learned)
    wanted = torch.zeros_like(learned)
    wanted[:, :-1] = learned[:, 1:]
    return tokens, positions, wanted, tokens[learned]


def _save(network: Network, shape: Shape, tokenizer: Tokenizer, out: Path) -> None:
    save_file(network.exported(), out / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes the file readable to its owner only.
    (out / "model.safetensors").chmod(0o644)
    save_tokenizer(tokenizer, out)
    ends = [token_id(tokenizer, IM_END), token_id(tokenizer, END_OF_TEXT)]
    config = shape.to_config(eos_token_id=ends[0], pad_token_id=ends[1])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"eos_token_id": ends, "pad_token_id": ends[1]}
    path = out / "generation_config.json"
    path.write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_PATH, help="directory to write")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--tokens-per-batch", type=int, default=4096)
    parser.add_argument("--peak", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--save-every", type=int, default=500, help="steps between two saves")
    parser.add_argument("--workers", type=int, default=2, help="processes that share each step, one a core")
    train(Plan(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
