import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.attachments import base64_text


@given(st.binary(max_size=400), st.text(max_size=9).filter(str.isascii), st.integers(1, 16))
async def test_reads_what_was_written_whatever_the_slices(data: bytes, head: str, slices: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base64_text, "_SLICE", 4 * slices)
        text = await base64_text.encode(data)
        assert text == base64.b64encode(data).decode()
        assert await base64_text.decode(head + text, len(head)) == data
        assert base64_text.decoded_bytes(head + text, len(head)) == len(data)


@given(st.text("Aa9+/=-_ \n\u00e9", max_size=24))
async def test_takes_what_python_takes_and_nothing_else(text: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base64_text, "_SLICE", 4)
        try:
            expected = base64.b64decode(text, validate=True)
        except ValueError:
            expected = None
        if expected is None or len(expected) != base64_text.decoded_bytes(text):
            with pytest.raises(ValueError):
                await base64_text.decode(text)
        else:
            assert await base64_text.decode(text) == expected


@pytest.mark.parametrize("text", ["AA==AAAA", "AAAA\n", "AA A", "AAA", "A===", "AA=A", "====", "AA==" * 2, "-_-_"])
async def test_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        await base64_text.decode(text)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("data:image/png;base64,AAAA", ("image/png", 22)),
        ("DATA:Image/PNG;Base64,", ("image/png", 22)),
        ("data:text/plain;charset=utf-8;base64,AA==", ("text/plain", 37)),
        ("data:image/svg+xml;base64,", ("image/svg+xml", 26)),
        ("data:image/png,AAAA", None),
        ("data:;base64,AAAA", None),
        ("data:base64,AAAA", None),
        (" data:image/png;base64,AAAA", None),
        ("https://example.com/a.png", None),
        ("data:image/png;" + "a=b;" * 100 + "base64,", None),
        ("", None),
    ],
)
def test_data_urls(url: str, found: tuple[str, int] | None) -> None:
    assert base64_text.split_data_url(url) == found
