"""Any JSON, as the bodies of requests may hold it."""

from typing import Any

from hypothesis import strategies as st

NUMBERS = st.sampled_from([-1, 0, 1, 2, 16, 2**31, 2**63, 2**64, 10**40, 0.5, -0.5, 1e308])


def values(likely: st.SearchStrategy[str], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Values of these texts and keys, some of them deep."""
    return st.recursive(
        st.none() | st.booleans() | likely | NUMBERS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


def fields(model: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields of a body, of those that it takes, those that it refuses, and one that is misspelt."""
    names = sorted({*model.model_fields, *model.UNSUPPORTED, "temprature"})
    return st.dictionaries(st.sampled_from(names), values, max_size=4)
