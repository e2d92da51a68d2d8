"""What clients note on what is stored for them, and how long such notes may be: OpenAI's bounds."""

from typing import Annotated

from pydantic import Field, StringConstraints

Label = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[Annotated[str, StringConstraints(max_length=64)], Label], Field(max_length=16)]
