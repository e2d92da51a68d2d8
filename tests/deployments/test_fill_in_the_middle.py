"""Templates for filling gaps: of models as they are, and whatever callers send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.fill_in_the_middle import FillInTheMiddle
from deployments.fleet_settings import FleetSettings
from deployments.pipelines import build_models

QWEN = "<|fim_prefix|>{prompt}<|fim_suffix|>{suffix}<|fim_middle|>"
MODELS = {
    QWEN: "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    "<fim_prefix>{prompt}<fim_suffix>{suffix}<fim_middle>": "<fim_prefix>a<fim_suffix>b<fim_middle>",
    "<｜fim▁begin｜>{prompt}<｜fim▁hole｜>{suffix}<｜fim▁end｜>": "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>",  # noqa: RUF001
    "<PRE> {prompt} <SUF>{suffix} <MID>": "<PRE> a <SUF>b <MID>",
    "[SUFFIX]{suffix}[PREFIX]{prompt}": "[SUFFIX]b[PREFIX]a",
}


@pytest.mark.parametrize(("template", "filled"), MODELS.items())
def test_models_as_they_are(template: str, filled: str) -> None:
    assert FillInTheMiddle.parse(template).filled("a", "b") == filled


@given(st.text() | st.sampled_from(["{suffix}", "{prompt}", "{", "\\1", "%s"]), st.text() | st.just("{prompt}"))
def test_whatever_callers_send_is_text(prompt: str, suffix: str) -> None:
    assert FillInTheMiddle.parse("<{prompt}|{suffix}>").filled(prompt, suffix) == f"<{prompt}|{suffix}>"


@pytest.mark.parametrize(
    "template", ["", "{prompt}", "{suffix}<M>", "{prompt}{suffix}<M>", QWEN + "{prompt}", QWEN * 2]
)
def test_what_is_no_template_is_refused_where_it_is_written(template: str) -> None:
    with pytest.raises(ValidationError, match="template") as caught:
        FleetSettings.model_validate({"models": [{"name": "m", "engine": "simulated", "fill_in_the_middle": template}]})
    assert caught.value.errors()[0]["loc"][-1] == "fill_in_the_middle"


def test_a_model_of_the_fleet_has_its_template() -> None:
    provider = {
        "name": "p",
        "engine": "openai",
        "options": {"base_url": "http://127.0.0.1:1/v1"},
        "fill_in_the_middle": QWEN,
    }
    settings = FleetSettings.model_validate(
        {"models": [provider, {"name": "both", "fallback": ["p"], "fill_in_the_middle": "<{suffix}|{prompt}>"}]}
    )
    first, second = build_models(settings, {}, lambda *_: None)
    assert first.fill_in_the_middle == FillInTheMiddle.parse(QWEN)
    assert second.fill_in_the_middle is not None and second.fill_in_the_middle.suffix_first
    assert first.card().fill_in_the_middle is True
