"""What a pooling model is asked for besides embeddings: how well texts fit one another, and what it pools as it is."""

import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engines.call_requests import (
    FLOAT_BYTES,
    MAX_INPUTS,
    CallRequest,
    Inputs,
    ModelAnswer,
    inputs_size,
)
from engines.errors import InvalidRequest

PoolingTask = Literal["embed", "classify", "token_embed", "token_classify"]
"""What is pooled: a vector of each input or of each of its tokens, or the probabilities of its classes likewise."""
POOLING_TASKS: tuple[PoolingTask, ...] = get_args(PoolingTask)
TruncationSide = Literal["left", "right"]
"""Which end of a text is cut off."""

MAX_PAIR_BYTES = 32 * 2**20
"""Of all pairs of a request together: a query of a megabyte beside each of 2,048 documents is two gigabytes of work."""
MAX_POOLED_BYTES = 64 * 2**20
"""Of the answer to one request: a vector of each token is thousands of times as large as the text."""
MAX_INSTRUCTION_CHARS = 16_384
_PAIR_BYTES = 8
"""What a pair counts besides its texts: the model sets marks around them."""

_Texts = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
_Rows = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]


class Scores(ModelAnswer):
    """How well each document fits its query; higher is better, and how high depends on the model.

    Attributes:
        values: One 32-bit float per document, little-endian, in the documents' order.
    """

    values: bytes

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.values) % FLOAT_BYTES:
            raise ValueError(f"{len(self.values)} bytes are no whole number of floats")
        return self

    def __len__(self) -> int:
        """How many there are."""
        return len(self.values) // FLOAT_BYTES

    @property
    def floats(self) -> tuple[float, ...]:
        """All of them, as numbers."""
        return struct.unpack(f"<{len(self)}f", self.values)


class ScoreRequest(CallRequest[Scores]):
    """Asks how well documents fit a query.

    Attributes:
        instruction: What the scores are to tell, for models whose template reads one.
        queries: One for all documents, or one for each.
        documents: What they are held against.
        truncate_prompt_tokens: Keeps only so many tokens of what the model reads at a time, which is a pair for models
            that read query and document together; -1: what fits; None: too long is an error.
        truncation_side: Which end is cut off; None: the model's own.
        max_tokens_per_query: Keeps only so many tokens of each query; 0: all.
        max_tokens_per_doc: Keeps only so many tokens of each document; 0: all.
        use_activation: Whether the model's activation is applied to what it says; None: as it does by itself.
    """

    capability = "score"
    purpose = "score documents"
    operation = "score"
    runs_model = True

    # Before the documents, which are held against both.
    instruction: str | None = Field(None, max_length=MAX_INSTRUCTION_CHARS)
    queries: _Texts
    documents: _Texts
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    truncation_side: TruncationSide | None = None
    max_tokens_per_query: int = Field(0, ge=0)
    max_tokens_per_doc: int = Field(0, ge=0)
    use_activation: bool | None = None

    @field_validator("documents")
    @classmethod
    def _in_pairs(cls, documents: list[str], known: ValidationInfo) -> list[str]:
        # What was given before them, as far as it is right.
        queries = known.data.get("queries")
        if queries is None:
            return documents
        if len(queries) not in (1, len(documents)):
            raise ValueError(
                f"there are {len(documents)} of them, to be held against {len(queries)}; give one to hold all of them "
                "against, or one for each"
            )
        size = _pairs_size(queries, documents, known.data.get("instruction"))
        if size > MAX_PAIR_BYTES:
            raise ValueError(
                f"each is read with what it is held against, which together is {size} bytes, and at most "
                f"{MAX_PAIR_BYTES} are taken"
            )
        return documents

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each document, behind its query."""
        queries = self.queries * len(self.documents) if len(self.queries) == 1 else self.queries
        return zip(queries, self.documents, strict=True)

    @property
    def size(self) -> int:
        """Bytes of all pairs: a query, and the instruction, count once for each document that they go with."""
        return _pairs_size(self.queries, self.documents, self.instruction)


def _pairs_size(queries: list[str], documents: list[str], instruction: str | None) -> int:
    repeated = len(documents) if len(queries) == 1 else 1
    each = _PAIR_BYTES + len(instruction or "")
    return repeated * sum(map(len, queries)) + sum(map(len, documents)) + each * len(documents)


class Pooled(ModelAnswer):
    """What the model pooled, in the order of the inputs.

    Attributes:
        values: All rows one after another, as 32-bit floats, little-endian.
        columns: Floats of one row: of a vector, or the number of classes.
        rows: Of each input, how many there are: one for each of its tokens, or one in all.
        per_token: Whether each token has a row of its own.
    """

    values: bytes
    columns: int = Field(ge=1)
    rows: _Rows
    per_token: bool

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.values) != FLOAT_BYTES * self.columns * sum(self.rows):
            raise ValueError(f"{len(self.values)} bytes are not {sum(self.rows)} rows of {self.columns} floats")
        return self

    def packed(self) -> Iterator[memoryview]:
        """The rows of one input after another, as they are in `values`."""
        view, begin = memoryview(self.values), 0
        for rows in self.rows:
            end = begin + FLOAT_BYTES * self.columns * rows
            yield view[begin:end]
            begin = end

    def floats(self, packed: memoryview) -> Iterator[Sequence[float]]:
        """The rows of one input, out of what `packed` gives for it, as numbers."""
        return struct.iter_unpack(f"<{self.columns}f", packed)


class PoolingRequest(CallRequest[Pooled]):
    """Asks for what a pooling model makes of each input, as it is.

    Attributes:
        inputs: Texts, or lists of token ids.
        task: What to pool; None: what the model is for.
        truncate_prompt_tokens: Keeps only so many tokens of each input; -1: what fits; None: too long is an error.
        truncation_side: Which end is cut off; None: the model's own.
        add_special_tokens: Whether texts get the model's own marks; None: they do.
        use_activation: Whether vectors are normalized, and classes have probabilities; None: as the model does.
    """

    capability = "pooling"
    purpose = "give what it pools"
    operation = "pooling"
    runs_model = True

    inputs: Inputs
    task: PoolingTask | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    truncation_side: TruncationSide | None = None
    add_special_tokens: bool | None = None
    use_activation: bool | None = None

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return inputs_size(self.inputs)


def is_per_token(task: PoolingTask) -> bool:
    """Whether a task pools each token by itself."""
    return task.startswith("token_")


def check_pooled_size(rows: int, columns: int) -> None:
    """Raises InvalidRequest where so many rows of so many floats are more than is answered with."""
    if rows * columns * FLOAT_BYTES > MAX_POOLED_BYTES:
        raise InvalidRequest(
            f"The answer would be {rows} rows of {columns} floats, which is over {MAX_POOLED_BYTES} bytes. Ask for "
            "fewer inputs at a time.",
            param="inputs",
        )
