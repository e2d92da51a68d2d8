from deployments.names import engine_deployment_names, slug


def test_a_slug_keeps_what_ray_and_serve_take() -> None:
    assert slug("Qwen/Qwen3-0.6B") == "Qwen-Qwen3-0.6B"
    assert slug("a#b c") == "a-b-c"
    assert slug("模型") == "model"


def test_deployment_names_differ_though_slugs_are_the_same() -> None:
    assert engine_deployment_names(["a/b", "a-b", "c"]) == ["engine-a-b", "engine-a-b-2", "engine-c"]
