"""From the inputs of embeddings, scores and pooling to token ids: cut where asked for, and held to the context."""

from dataclasses import dataclass

from engines.call_requests import EmbedRequest
from engines.errors import ContextOverflow, InvalidRequest
from engines.pooling_requests import PoolingRequest, ScoreRequest, TruncationSide
from engines.simulated.prompt import check_ids, check_size
from engines.simulated.tokenizer import encode


@dataclass(frozen=True, slots=True)
class Cut:
    """How an input that is too long is cut.

    Attributes:
        keep: Tokens that are kept; -1: what fits; None: it is not cut.
        side: Which end is cut off.
    """

    keep: int | None
    side: TruncationSide

    @classmethod
    def of(cls, request: EmbedRequest | ScoreRequest | PoolingRequest) -> "Cut":
        """What a request asks for; the end of a text is kept where it does not say, as vLLM does for our demo model."""
        side = None if isinstance(request, EmbedRequest) else request.truncation_side
        return cls(request.truncate_prompt_tokens, side or "left")

    def apply(self, ids: list[int], context_length: int) -> list[int]:
        """What is left of token ids."""
        if self.keep is None:
            return ids
        most = context_length if self.keep == -1 else max(1, self.keep)
        return ids[-most:] if self.side == "left" else ids[:most]


def input_ids(item: str | list[int], param: str, cut: Cut, context_length: int) -> list[int]:
    """The token ids of one input.

    Args:
        item: A text, or token ids.
        param: What it is called.
        cut: How it is cut.
        context_length: Most tokens that the model takes.

    Raises:
        InvalidRequest: It is empty, or no id of the vocabulary; ContextOverflow when it is too long.
    """
    if isinstance(item, str):
        if cut.keep is None:
            check_size(len(item), context_length, param)
        ids = encode(item)
    else:
        check_ids(item, param)
        ids = item
    if not ids:
        raise InvalidRequest("An input is empty.", param=param)
    ids = cut.apply(ids, context_length)
    check_fits(ids, param, context_length)
    return ids


def pair_ids(request: ScoreRequest, cut: Cut, context_length: int) -> list[tuple[list[int], list[int]]]:
    """The token ids of each document, behind those of its query.

    Raises:
        ContextOverflow: A pair is too long; names the document.
    """
    pairs = []
    known: dict[str, list[int]] = {}
    for position, (query, document) in enumerate(request.pairs):
        param = f"documents[{position}]"
        if cut.keep is None and not request.max_tokens_per_query and not request.max_tokens_per_doc:
            check_size(len(query) + len(document), context_length, param)
        if query not in known:
            known[query] = _first(encode(query), request.max_tokens_per_query)
        begin, rest = known[query], _first(encode(document), request.max_tokens_per_doc)
        both = cut.apply([*begin, *rest], context_length)
        check_fits(both, param, context_length)
        if len(both) < len(begin) + len(rest):
            # What is cut off on the left is the query's beginning, on the right the document's end.
            kept = max(0, len(both) - len(rest)) if cut.side == "left" else min(len(begin), len(both))
            begin, rest = both[:kept], both[kept:]
        pairs.append((begin, rest))
    return pairs


def check_fits(ids: list[int], param: str, context_length: int) -> None:
    """Raises ContextOverflow where there are more ids than the model takes."""
    if len(ids) > context_length:
        raise ContextOverflow(
            f"An input has {len(ids)} tokens; this model takes {context_length}.",
            context_length=context_length,
            prompt_tokens=len(ids),
            param=param,
        )


def _first(ids: list[int], most: int) -> list[int]:
    return ids[:most] if most else ids
