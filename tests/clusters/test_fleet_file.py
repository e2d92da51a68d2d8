from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clusters
from clusters.fleet_file import FleetFileError, load_fleet, parse_fleet
from deployments.fleet_settings import FleetSettings
from deployments.model_settings import ModelSettings


def problems(text: str) -> list[str]:
    with pytest.raises(FleetFileError) as caught:
        parse_fleet(text, "fleet.yaml", Path("/fleets"))
    return caught.value.lines()


def the_problem(text: str) -> str:
    [problem] = problems(text)
    return problem


@pytest.mark.parametrize("name", ["demo.yaml", "embeddings.yaml", "simulated.yaml"])
def test_every_fleet_that_comes_along_is_right(name: str) -> None:
    assert load_fleet(Path(clusters.__file__).parent / name).models


def test_an_unknown_key_is_named_with_file_line_path_and_the_nearest_known_one() -> None:
    line = the_problem("models:\n  - name: demo\n    replcas: 2\n")
    assert line == "fleet.yaml:3: models[0].replcas: there is no such key; did you mean replicas?"


def test_an_unknown_key_deep_down_knows_its_neighbours() -> None:
    line = the_problem("models:\n  - name: demo\n    routing:\n      sticky: {mod: soft}\n")
    assert line == "fleet.yaml:4: models[0].routing.sticky.mod: there is no such key; did you mean mode?"


def test_an_unknown_engine_names_the_nearest() -> None:
    line = the_problem("models:\n  - name: demo\n    engine: simulatd\n")
    assert line.startswith("fleet.yaml:3: models[0].engine:")
    assert "Did you mean 'simulated'?" in line


def test_an_engines_options_are_checked_by_that_engine() -> None:
    text = "models:\n  - name: s\n    engine: simulated\n    options:\n      step_time:\n        base: 1\n"
    line = the_problem(text)
    assert line == "fleet.yaml:6: models[0].options.step_time.base: there is no such key; did you mean base_s?"


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("{GPU: 1}", "GPU has a setting of its own: gpus"),
        ("{'accelerator_type:H100': 1}", "accelerator_type:H100: give `accelerator_type: H100` instead"),
        ("{'node:10.0.0.1': 1}", "'node:10.0.0.1' is no custom resource; its name is up to whoever starts the nodes"),
        ("{edge: 0}", "edge must be from 0.0001 to 1e+06, not 0"),
        ("{edge: 1.5}", "edge must be whole, or a share of one, not 1.5"),
    ],
)
def test_resources_that_no_node_can_have_are_named(resources: str, said: str) -> None:
    line = the_problem(f"models:\n  - name: s\n    engine: simulated\n    resources: {resources}\n")
    assert line == f"fleet.yaml:4: models[0].resources: {said}"
    line = the_problem(f"models: [{{name: s, engine: simulated}}]\nrouter:\n  resources: {resources}\n")
    assert line == f"fleet.yaml:3: router.resources: {said}"


def test_a_wrong_value_in_a_union_is_named_by_its_key() -> None:
    lines = problems("models:\n  - name: s\n    engine: simulated\n    options:\n      speed: fast\n")
    assert all(line.startswith("fleet.yaml:5: models[0].options.speed: ") for line in lines)


def test_a_host_with_a_port_is_refused_by_its_place_with_one_that_is_right() -> None:
    line = the_problem("models: [{name: demo}]\nhttp:\n  hosts: [chat.example.com, 'llm.example.com:8000']\n")
    assert line.startswith("fleet.yaml:3: http.hosts[1]: must be a host's name or address without scheme, port or path")
    assert line.endswith("not 'llm.example.com:8000'")


def test_zero_replicas_are_refused_with_the_value() -> None:
    line = the_problem("models:\n  - {name: demo, replicas: 0}\n")
    assert line.startswith("fleet.yaml:2: models[0].replicas:")
    assert line.endswith("not 0")


def test_replicas_are_a_number_or_bounds_and_each_mistake_names_its_key() -> None:
    text = "models:\n  - name: demo\n    replicas:\n      {}\n"
    assert the_problem(text.format("min: 0")) == "fleet.yaml:3: models[0].replicas.max: is missing"
    assert the_problem(text.format("{max: 3, mix: 1}")).startswith("fleet.yaml:4: models[0].replicas.mix: there is no")
    assert the_problem(text.format("{min: 5, max: 2}")) == "fleet.yaml:3: models[0].replicas: min is 5, and max only 2"
    assert "there is one goal" in the_problem(text.format("{max: 2, ttft_s: 1, queue_time_s: 1}"))
    assert the_problem(text.format("{max: 8, spare: 8}")) == (
        "fleet.yaml:3: models[0].replicas: spare is 8, and max 8: nothing is left that could grow. Set spare to 7 at "
        "most, or replicas to the number 8"
    )
    assert "idle_s" in the_problem(text.format("{max: 2, idle_s: 0}"))
    line = the_problem("models: [{name: demo}]\nrouter: {replicas: {min: 3, max: 2}}\n")
    assert line == "fleet.yaml:2: router.replicas: min is 3, and max only 2"


def test_a_model_that_may_sleep_must_wait_for_its_boots() -> None:
    line = the_problem("models:\n  - name: demo\n    replicas: {min: 0, max: 1}\n    routing: {wait_s: 0}\n")
    assert line.startswith("fleet.yaml:2: models[0]: replicas.min is 0, and routing.wait_s too")


def test_sleep_is_refused_where_the_engine_cannot_or_would_lose_its_adapters() -> None:
    text = "models:\n  - name: m\n    engine: {}\n    sleep: {}\n"
    assert the_problem(text.format("scripted", "{after_s: 60}")) == (
        "fleet.yaml:2: models[0]: sleep is set, and the engine scripted cannot sleep: leave it out"
    )
    assert the_problem(text.format("simulated", "{level: 1}")) == "fleet.yaml:4: models[0].sleep.after_s: is missing"
    assert "sleep.level: " in the_problem(text.format("simulated", "{after_s: 60, level: 3}"))
    adapters = "    adapters: [{name: x, path: org/x}]\n"
    assert "weights would not be loaded again: set sleep.level to 1" in the_problem(
        text.format("vllm", "{after_s: 60, level: 2}") + adapters
    )


def test_a_key_that_is_there_twice_is_refused_with_both_lines() -> None:
    line = the_problem("models:\n  - name: demo\n    replicas: 1\n    replicas: 2\n")
    assert line == "fleet.yaml:4: models[0].replicas: is here twice; the first is on line 3"


def test_two_models_of_one_name_are_refused() -> None:
    assert "two models are called 'demo'" in the_problem("models:\n  - name: demo\n  - name: demo\n")


def test_all_that_is_wrong_is_said_at_once_by_line() -> None:
    lines = problems("nam: x\nmodels:\n  - name: demo\n    engine: vlm\n    cpus: -1\nhttp: {port: 70000}\n")
    assert [line.split(":")[1] for line in lines] == ["1", "4", "5", "6"]


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "empty"), ("# nothing\n", "empty"), ("- a\n", "a list"), ("demo\n", "a plain value"), ("{}\n", "models")],
)
def test_what_is_no_fleet_says_what_is_expected(text: str, word: str) -> None:
    assert word in the_problem(text)


def test_what_is_no_yaml_names_the_line() -> None:
    assert the_problem("models:\n  - name: [demo\n").startswith("fleet.yaml:3: this is no YAML")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("gpus: 1.5", "gpus must be whole, or a share of one, not 1.5"),
        ("gpus: 2, tensor_parallel_size: 4", "tensor_parallel_size is 4, and gpus only 2"),
        ("gpus: 0.5, tensor_parallel_size: 2", "tensor_parallel_size is 2, and gpus only 0.5"),
        ("gpus: 1, pipeline_parallel_size: 2", "pipeline_parallel_size is 2, and gpus only 1"),
        (
            "gpus: 4, tensor_parallel_size: 4, pipeline_parallel_size: 2",
            "tensor_parallel_size times pipeline_parallel_size is 4 x 2 = 8, and gpus only 4",
        ),
    ],
)
def test_gpus_that_no_instance_can_have_are_refused(keys: str, problem: str) -> None:
    assert problem in the_problem(f"models:\n  - {{name: demo, {keys}}}\n")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("nnodes: 2", "nnodes is 2, and tensor_parallel_size is 1, which cannot be divided evenly"),
        ("nnodes: 2, pipeline_parallel_size: 3", "nnodes is 2, and pipeline_parallel_size is 3, which cannot"),
        ("nnodes: 2, tensor_parallel_size: 4, gpus: 8", "gpus is 8, and over several nodes each of the 4 ranks has"),
        ("nnodes: 2, tensor_parallel_size: 2, cpus: 0", "cpus is 0, and nnodes 2: an instance must reserve something"),
        ("nnodes: 2, engine: simulated", "nnodes is 2, and the engine simulated lives on one node: leave it out"),
        (
            "nnodes: 2, engine: openai, options: {base_url: http://x}",
            "the engine openai has no instances here, and so no nnodes",
        ),
    ],
)
def test_nodes_that_no_instance_can_spread_over_are_refused(keys: str, problem: str) -> None:
    assert problem in "; ".join(problems(f"models:\n  - {{name: demo, {keys}}}\n"))


def test_a_number_where_text_belongs_asks_for_quotes() -> None:
    assert "write it in quotes: '5'" in the_problem("models:\n  - name: 5\n")


def test_sticky_off_is_the_word_off() -> None:
    fleet = parse_fleet("models: [{name: demo, routing: {sticky: {mode: off}}}]", "f", Path("/"))
    assert fleet.models[0].routing.sticky.mode == "off"


def test_paths_that_begin_with_a_dot_are_relative_to_the_file() -> None:
    options = "{model: ./weights, chat_template: ../chat.jinja, tokenizer: org/name}"
    fleet = parse_fleet(f"models: [{{name: demo, options: {options}}}]", "f", Path("/fleets/here"))
    assert fleet.models[0].options == {
        "model": "/fleets/here/weights",
        "chat_template": "/fleets/chat.jinja",
        "tokenizer": "org/name",
    }


def test_adapters_are_read_and_their_folders_are_relative_to_the_file() -> None:
    adapters = "[{name: sql, path: ./sql}, {name: ./odd, path: org/odd}]"
    fleet = parse_fleet(f"models: [{{name: demo, adapters: {adapters}}}]", "f", Path("/fleets"))
    model = fleet.models[0]
    assert isinstance(model, ModelSettings)
    assert [(one.name, one.path) for one in model.adapters] == [("sql", "/fleets/sql"), ("./odd", "org/odd")]
    assert model.spec().adapters == tuple(model.adapters)
    assert FleetSettings.model_validate(fleet.model_dump(mode="json", exclude_defaults=True)) == fleet


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("adapters: [{name: sql}]", "models[0].adapters[0].path: is missing"),
        ("adapters: [{name: sql, path: a, rank: 8}]", "models[0].adapters[0].rank: there is no such key"),
        ("adapters: [{name: s q l, path: a}]", "models[0].adapters[0].name"),
        ("adapters: [{name: demo, path: a}]", "two models are called 'demo'"),
        ("aliases: [sql], adapters: [{name: sql, path: a}]", "two models are called 'sql'"),
        ("adapters: [{name: a, path: a}, {name: a, path: b}]", "two models are called 'a'"),
        ("engine: openai, adapters: [{name: sql, path: a}]", "openai has no instances here, and so no adapters"),
        ("options: {max_loras: 0}", "models[0].options.max_loras: "),
        ("options: {max_lora_rank: 17}", "models[0].options.max_lora_rank: must be one of 1, 8, 16"),
        ("adapters: sql", "models[0].adapters: "),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(model: str, says: str) -> None:
    assert any(says in line for line in problems(f"models:\n  - {{name: demo, {model}}}\n"))


def test_a_fallback_may_be_made_of_adapters_and_has_none() -> None:
    models = "models:\n  - {name: demo, adapters: [{name: sql, path: a}]}\n"
    assert parse_fleet(models + "  - {name: both, fallback: [sql, demo]}\n", "f", Path("/")).models
    line = the_problem(models + "  - {name: both, fallback: [sql], adapters: []}\n")
    assert "models[1].adapters: there is no such key" in line


def test_a_database_is_a_file_or_a_url() -> None:
    models = "models: [{name: demo}]\n"
    fleet = parse_fleet(models + "database: {file: ./penstock.sqlite}", "f", Path("/fleets"))
    assert fleet.database is not None and fleet.database.file == "/fleets/penstock.sqlite"
    url = "postgresql://me@db.example/penstock"
    fleet = parse_fleet(models + f"database: {{url: '{url}'}}", "f", Path("/fleets"))
    assert fleet.database is not None and fleet.database.url == url


@pytest.mark.parametrize(
    ("database", "problem"),
    [
        ("{}", "give one of `file`, `url` and `url_env`"),
        ("{file: a, url_env: B}", "give one of `file`, `url` and `url_env`"),
        ("{url: 'mysql://me@db.example/penstock'}", "no postgresql://USER@HOST:PORT/NAME"),
        ("{url: 'postgresql://db.example'}", "no postgresql://USER@HOST:PORT/NAME"),
        ("{url: 'postgresql://me@db.example:x/penstock'}", "no postgresql://USER@HOST:PORT/NAME"),
        ("{url: 'postgresql://me:secret@db.example/penstock'}", "put the URL into url_env"),
    ],
)
def test_a_database_that_is_none_is_refused_without_its_password(database: str, problem: str) -> None:
    said = the_problem(f"models: [{{name: demo}}]\ndatabase: {database}\n")
    assert problem in said
    assert "secret" not in said


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="there is no such file"):
        load_fleet(tmp_path / "none.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="cannot be read"):
        load_fleet(tmp_path)


words = st.sampled_from(["models", "name", "replicas", "engine", "options", "vllm", "demo", "http", "port", "cpus"])
trees = st.recursive(
    words | st.integers(-5, 5) | st.none() | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


@given(trees)
def test_any_document_is_a_fleet_or_a_fleet_file_error(tree: object) -> None:
    import yaml

    try:
        assert isinstance(parse_fleet(yaml.safe_dump(tree), "f", Path("/")), FleetSettings)
    except FleetFileError as error:
        assert error.problems


PAIR = "models:\n  - {name: a, engine: simulated}\n  - {name: b, engine: simulated}\n"


def test_a_pipeline_is_read_with_its_options_and_written_again() -> None:
    pipeline = "[{retry: {attempts: 5}}, {timeout: {first_event_s: 60}}, breaker, migration]"
    text = f"models:\n  - name: a\n    pipeline: {pipeline}\n"
    fleet = parse_fleet(text, "fleet.yaml", Path("/fleets"))
    assert [operator.name for operator in fleet.models[0].operators] == ["retry", "timeout", "breaker", "migration"]
    assert FleetSettings.model_validate(fleet.model_dump(mode="json", exclude_defaults=True)) == fleet


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ("[migration, retry]", "retry must stand before migration: each attempt of retry is one for breaker to judge"),
        ("[breaker, timeout, trace]", "trace must stand before breaker: what stands before trace is missing"),
        ("[retry, retry]", "retry stands twice"),
        ("[retri]", "There is no operator 'retri'; operators: trace, recovery, retry"),
        ("[{retry: {attempt: 3}}]", "retry.attempt: there is no such option. Did you mean 'attempts'?"),
        ("[{retry: {attempts: 0}}]", "retry.attempts: input should be greater than or equal to 1, not 0"),
        ("[{retry: {}, breaker: {}}]", "is one operator, with its options"),
    ],
)
def test_a_wrong_pipeline_is_explained(pipeline: str, says: str) -> None:
    line = the_problem(f"models:\n  - name: a\n    engine: simulated\n    pipeline: {pipeline}\n")
    assert line.startswith("fleet.yaml:4: models[0].pipeline") and says in line


def test_a_model_is_made_of_others() -> None:
    pool = "[{model: c, weight: 9}, {model: b, failover: true}]"
    text = PAIR + f"  - {{name: c, fallback: [a, b]}}\n  - {{name: d, pool: {pool}}}\n"
    fleet = parse_fleet(text, "fleet.yaml", Path("/fleets"))
    assert [model.name for model in fleet.deployed] == ["a", "b"]
    assert FleetSettings.model_validate(fleet.model_dump(mode="json", exclude_defaults=True)) == fleet


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{name: c, fallback: [a, bb]}", "c is made of bb, which is not in the fleet."),
        ("{name: c, fallback: [c]}", "c is made of c, which is made of c"),
        ("{name: c, fallback: []}", "models[2].fallback: list should have at least 1 item"),
        ("{name: c, fallback: [a], replicas: 2}", "models[2].replicas: there is no such key"),
        ("{name: c, pool: [{model: a, weight: 0}]}", "models[2].pool[0].weight: input should be greater than 0, not 0"),
        ("{name: c, pool: [{modl: a}]}", "models[2].pool[0].modl: there is no such key; did you mean model?"),
        ("{name: c, falback: [a]}", "models[2].falback: there is no such key; did you mean fallback?"),
        ("{name: c, engine: openai, replicas: 2}", "the engine openai has no instances here, and so no replicas"),
        ("{name: c, engine: openai}", "models[2].options.base_url: is missing"),
        ("{name: c, migration: {limit: 2}}", "models[2].migration: is an operator of the pipeline now"),
    ],
)
def test_a_model_made_of_others_is_checked(model: str, says: str) -> None:
    lines = problems(PAIR + f"  - {model}\n")
    assert any(says in line for line in lines), lines


def test_models_made_of_one_another_are_refused() -> None:
    lines = problems(PAIR + "  - {name: c, fallback: [d]}\n  - {name: d, pool: [{model: a}, {model: c}]}\n")
    assert "c is made of d, which is made of c" in lines[0]
