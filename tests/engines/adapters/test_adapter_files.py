"""An adapter's files, looked at before anything loads them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.adapters.adapter_files import AdapterFilesError, is_local, read_adapter_files

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}


def written(folder: Path, config: Any = CONFIG, weights: str | None = "adapter_model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(text)
    if weights is not None:
        (folder / weights).write_bytes(b"")
    return folder


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_whole_one_says_its_rank_and_where_its_weights_are(tmp_path: Path, weights: str) -> None:
    files = read_adapter_files(written(tmp_path / "a", CONFIG | {"rank_pattern": {"q_proj": 12}}, weights), 16)
    assert (files.rank, files.weights) == (12, tmp_path / "a" / weights)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (CONFIG | {"r": 17}, "its rank is 17, and max_lora_rank 16"),
        (CONFIG | {"rank_pattern": {"q_proj": 32}}, "its rank is 32, and max_lora_rank 16"),
        (CONFIG | {"peft_type": "IA3"}, "it is no LoRA adapter: its peft_type is 'IA3'"),
        ({"lora_alpha": 1}, "says no rank"),
        (CONFIG | {"r": True}, "says no rank"),
        (CONFIG | {"r": "8"}, "says no rank"),
        (CONFIG | {"rank_pattern": 3.5}, "says no rank"),
        ([], "no JSON object"),
        (b"{", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b" " * 2**21, "no JSON object"),
    ],
)
def test_what_is_wrong_is_said_without_a_path(tmp_path: Path, config: Any, why: str) -> None:
    with pytest.raises(AdapterFilesError) as caught:
        read_adapter_files(written(tmp_path / "a", config), 16)
    assert why in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for folder, why in (
        (tmp_path / "none", "its folder does not exist"),
        (tmp_path, "it has no adapter_config.json"),
        (written(tmp_path / "a", weights=None), "it has no adapter_model.safetensors"),
    ):
        with pytest.raises(AdapterFilesError, match=why):
            read_adapter_files(folder, 16)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["r", "x"]), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.dictionaries(st.sampled_from(["r", "peft_type", "rank_pattern"]), json_values) | st.binary(max_size=50)
)
def test_any_configuration_is_read_or_refused(tmp_path: Path, config: Any) -> None:
    try:
        assert 1 <= read_adapter_files(written(tmp_path / "a", config), 16).rank <= 16
    except AdapterFilesError as error:
        assert str(error)


def test_a_path_is_a_folder_or_an_id() -> None:
    assert all(map(is_local, ["/a", "./a", "../a", "~/a"]))
    assert not is_local("org/name")
