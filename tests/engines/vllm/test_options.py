"""Options are refused by name; those for vLLM's own arguments once vLLM is there to say what it knows."""

import os
import subprocess
import sys
import threading

import pytest
from pydantic import ValidationError

from engines.errors import InvalidRequest
from engines.registry import NodePart
from engines.vllm import environment
from engines.vllm.options import VllmOptions
from tests.lazily import lazily, needs

needs("vllm", "its arguments are what this is about")

PART = NodePart(node_rank=1, address="127.0.0.1", master_addr="10.0.0.1", master_port=4000)

arguments = lazily("engines.vllm.arguments")
executors = lazily("vllm.v1.executor.uniproc_executor")
platforms = lazily("vllm.platforms")


@pytest.fixture
def on_the_cpu() -> None:
    if not platforms.current_platform.is_cpu():
        pytest.skip("about the CPU")


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="modle"):
        VllmOptions.model_validate({"modle": "demo"})


def test_options_need_no_vllm() -> None:
    code = "import sys, engines.vllm.engine, engines.vllm.options; sys.exit('vllm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_engine_argument_names_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="'enable_lora'") as refused:
        arguments.engine_args(VllmOptions(engine_args={"enable_loras": True}), 1)
    assert refused.value.param == "options.engine_args.enable_loras"


@pytest.mark.parametrize("name", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_engine_argument_that_the_fleet_sets_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"set `{name}` of the model"):
        arguments.engine_args(VllmOptions(engine_args={name: 2}), 1)


def test_engine_arguments_win_over_options() -> None:
    args = arguments.engine_args(VllmOptions(max_num_seqs=8, engine_args={"max_num_seqs": 4, "block_size": 32}), 2)
    assert (args.max_num_seqs, args.block_size, args.tensor_parallel_size) == (4, 32, 2)


def test_demo_is_the_model_that_comes_along() -> None:
    from engines.demo import MODEL_PATH

    assert arguments.engine_args(VllmOptions(), 1).model == str(MODEL_PATH)


def test_children_compute_with_the_threads_given_and_are_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    with environment.child_environment(VllmOptions(cpu_threads=2)):
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ
    with environment.child_environment(VllmOptions()):
        assert os.environ["OMP_NUM_THREADS"] == "3"


def test_engines_that_boot_at_once_each_get_an_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "VLLM_RPC_BASE_PATH")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    lock, second_waits, seen = threading.Lock(), threading.Event(), {}

    class Announced:
        def __enter__(self) -> None:
            if lock.locked():
                second_waits.set()
            lock.acquire()

        def __exit__(self, *exc: object) -> None:
            lock.release()

    def boot_second() -> None:
        with environment.child_environment(VllmOptions()):
            seen.update({name: os.environ.get(name) for name in names})

    monkeypatch.setattr(environment, "_environment_lock", Announced())
    second = threading.Thread(target=boot_second)
    with environment.child_environment(VllmOptions(cpu_threads=7)):
        second.start()
        assert second_waits.wait(10)
    second.join(10)
    assert seen["VLLM_RPC_BASE_PATH"], "its sockets would be in everybody's folder"
    assert seen["OMP_NUM_THREADS"] != "7"
    assert not any(name in os.environ for name in names)


def test_a_single_rank_shares_the_process_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    executor = arguments.engine_args(VllmOptions(), 1).distributed_executor_backend
    assert executor in ("uni", executors.UniProcExecutor)
    assert arguments.engine_args(VllmOptions(), 2).distributed_executor_backend == "mp"
    assert arguments.engine_args(VllmOptions(), 1, 2).distributed_executor_backend == "mp"


def test_a_rank_whose_threads_are_pinned_has_a_process_of_its_own(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    assert arguments.engine_args(VllmOptions(), 1).distributed_executor_backend == "mp"


def test_on_the_cpu_a_node_of_several_has_one_rank(on_the_cpu: None) -> None:
    with pytest.raises(InvalidRequest, match="set nnodes to 4") as refused:
        arguments.engine_args(VllmOptions(), 2, 2, nnodes=2, part=PART)
    assert refused.value.param == "nnodes"


def test_the_ranks_of_a_node_say_the_address_that_ray_has_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    args = arguments.engine_args(VllmOptions(), 1, 2, nnodes=2, part=PART)
    assert (args.nnodes, args.node_rank, args.master_addr, args.master_port) == (2, 1, "10.0.0.1", 4000)
    with environment.child_environment(VllmOptions(), PART):
        assert (os.environ["VLLM_HOST_IP"], os.environ["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")
    assert "VLLM_HOST_IP" not in os.environ


def test_unreadable_chat_template_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be read") as refused:
        arguments.chat_template(VllmOptions(chat_template="/nowhere/template.jinja"))
    assert refused.value.param == "options.chat_template"
