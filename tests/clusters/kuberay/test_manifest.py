"""What `penstock build --kuberay` prints, held against KubeRay's own schema and read as Ray's autoscaler reads it."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from clusters.cli import app
from clusters.errors import ClusterError
from clusters.kuberay.manifest import manifest
from clusters.kuberay.options import KubeRayOptions, SecretKey, Volume, parse_node_selector
from deployments.fleet_settings import FleetSettings
from tests.clusters.conftest import ROOT, Terminal
from tests.clusters.kuberay.schema import problems

KEYED = {"keys": {"file": "/home/me/keys.yaml"}}
LARGE = {
    "models": [
        {"name": "org/Llama-3.1", "replicas": {"min": 0, "max": 8}, "surge_percent": 50, "tensor_parallel_size": 2}
        | {"options": {"model": "/models/llama"}, "adapters": [{"name": "sql", "path": "/models/sql"}]},
        {"name": "small", "replicas": 3, "gpus": 0.5, "cpus": 1.5, "resources": {"ssd": 1}, "accelerator_type": "L4"},
        {"name": "sim", "engine": "simulated", "replicas": 1},
        {"name": "gpt", "engine": "openai", "options": {"base_url": "https://api.example.com/v1"}},
    ],
    "router": {"replicas": {"min": 2, "max": 3}},
    "database": {"url_env": "DATABASE"},
    "http": KEYED
    | {
        "secret": {"file": "/s"},
        "tls": {"certificate": "/c", "key": "/k"},
        "operators": {"host": "0.0.0.0", "port": 9000},
    },
}
EVERYTHING = KubeRayOptions(
    image="registry.example.com/penstock:1",
    namespace="serving",
    volumes=[Volume.parse("weights:/models:ro"), Volume.parse("cache:/cache")],
    env_secrets=["providers"],
    keys_secret="tenants",
    signing_secret="signing",
    tls_secret="certificate",
    token_secret="token",
    redis="redis:6379",
    redis_password=SecretKey("redis", "password"),
    node_selector=parse_node_selector(["cloud.google.com/gke-accelerator=nvidia-l4"]),
    upgrade="None",
    service_type="LoadBalancer",
)
LITTLE = {"models": [{"name": "demo"}], "http": {"open": True}}
IMAGE = KubeRayOptions(image="penstock")


def documents(fleet: dict[str, Any], options: KubeRayOptions = IMAGE) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(manifest(FleetSettings.model_validate(fleet), options)))


def service(fleet: dict[str, Any], options: KubeRayOptions = IMAGE) -> dict[str, Any]:
    return documents(fleet, options)[0]


def groups(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in document["spec"]["rayClusterConfig"]["workerGroupSpecs"]}


def pod(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    return pod(group)["containers"][0]


def served(document: dict[str, Any]) -> FleetSettings:
    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    return FleetSettings.model_validate(config["applications"][0]["args"])


FLEETS = [(LARGE, EVERYTHING), (LITTLE, IMAGE), (LITTLE, KubeRayOptions(image="x", uses_gpus=False))]


@pytest.mark.parametrize(("fleet", "options"), FLEETS)
def test_kuberays_schema_takes_it(fleet: dict[str, Any], options: KubeRayOptions) -> None:
    assert problems(service(fleet, options)) == []


def test_the_schema_would_refuse_what_is_wrong() -> None:
    wrong = service(LITTLE)
    wrong["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    assert len(problems(wrong)) == 1
    wrong = service(LITTLE)
    wrong["spec"]["rayClusterDeletionDelaySeconds"] = "soon"
    assert len(problems(wrong)) == 1


def test_rays_autoscaler_finds_in_each_group_what_its_replicas_reserve() -> None:
    cluster = service(LARGE, EVERYTHING)["spec"]["rayClusterConfig"]
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "one", "namespace": "serving"}, "spec": copy.deepcopy(cluster)}
    )
    kinds = config["available_node_types"]
    found = {
        name: {key: value for key, value in kind["resources"].items() if key != "memory"}
        for name, kind in kinds.items()
    }
    assert found == {
        "headgroup": {"CPU": 0},
        "routers": {"CPU": 1, "routers-place": 1},
        "org-llama-3-1": {"CPU": 1, "GPU": 2, "org-llama-3-1-place": 1},
        # Two instances share a GPU, and a pod.
        "small": {"CPU": 3, "GPU": 1, "ssd": 2, "small-place": 2, "accelerator_type:L4": 1},
        "sim": {"CPU": 1, "sim-place": 1},
    }
    bounds = {name: (kind["min_workers"], kind["max_workers"]) for name, kind in kinds.items() if name != "headgroup"}
    assert bounds == {"routers": (2, 6), "org-llama-3-1": (0, 13), "small": (2, 3), "sim": (1, 2)}
    fleet = served(service(LARGE, EVERYTHING))
    for model in fleet.deployed:
        bundle = {"CPU": model.cpus, "GPU": model.gpus or 0, **model.custom_resources}
        fitting = [name for name, has in found.items() if all(has.get(key, 0) >= bundle[key] for key in bundle)]
        assert fitting == [model.name.lower().replace("/", "-").replace(".", "-")]
    routers = [
        name for name, has in found.items() if all(has.get(key, 0) >= n for key, n in fleet.router.needs.items())
    ]
    assert routers == ["routers"]


def test_the_head_does_no_work_and_gets_no_traffic() -> None:
    spec = service(LITTLE)["spec"]
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_service_leads_to_pods_with_a_router_only() -> None:
    document = service(LARGE, EVERYTHING)
    [port] = document["spec"]["serveService"]["spec"]["ports"]
    assert (port["name"], port["targetPort"]) == ("serve", "serve")
    head = document["spec"]["rayClusterConfig"]["headGroupSpec"]
    pods = {"head": head, **groups(document)}
    ports = {
        name: {one["name"]: one["containerPort"] for one in container(group).get("ports", [])}
        for name, group in pods.items()
    }
    assert [name for name, listed in ports.items() if "serve" in listed] == ["routers"]
    assert ports["routers"] == {"serve": 8000, "operators": 9000}


def test_a_routers_pod_is_ready_when_its_router_is_and_another_as_soon_as_ray_runs() -> None:
    pods = groups(service(LARGE, EVERYTHING))
    probe = container(pods["routers"])["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"], probe["scheme"]) == ("/ready", "serve", "HTTPS")
    assert container(pods["small"])["readinessProbe"]["httpGet"]["path"] == "/api/healthz"
    asking = LITTLE | {"http": {"open": True, "tls": {"certificate": "/c", "key": "/k", "client_ca": "/a"}}}
    probe = container(groups(service(asking, KubeRayOptions(image="x", tls_secret="t")))["routers"])["readinessProbe"]
    assert probe["tcpSocket"] == {"port": "serve"}


def test_a_router_that_ends_in_a_pod_that_stays_takes_connections_until_its_probe_has_failed() -> None:
    document = service(LITTLE)
    probe = container(groups(document)["routers"])["readinessProbe"]
    assert served(document).http.notice_s > 2 * probe["periodSeconds"] * probe["failureThreshold"]
    patient = LITTLE | {"http": {"open": True, "notice_s": 60, "drain_s": 600}}
    assert served(service(patient)).http.notice_s == 60
    router = groups(service(patient))["routers"]
    assert int(container(router)["lifecycle"]["preStop"]["exec"]["command"][-1]) > 300 + 60 + 600


def test_a_pod_has_time_to_hand_over_what_it_has() -> None:
    slow = LITTLE | {"models": [{"name": "demo", "drain_timeout_s": 500}]}
    for group in groups(service(slow)).values():
        *_, within_s = container(group)["lifecycle"]["preStop"]["exec"]["command"]
        assert pod(group)["terminationGracePeriodSeconds"] > int(within_s) >= 300 + 30
    *_, within_s = container(groups(service(slow))["demo"])["lifecycle"]["preStop"]["exec"]["command"]
    assert int(within_s) > 300 + 500


def test_an_old_cluster_outlives_the_longest_stream() -> None:
    assert (
        service(LITTLE, KubeRayOptions(image="x", longest_stream_s=7200))["spec"]["rayClusterDeletionDelaySeconds"]
        > 7200
    )


def test_gpus_are_set_for_the_cluster_may_have_none_yet() -> None:
    fleet = served(service(LITTLE))
    assert fleet.deployed[0].gpus == 1
    group = groups(service(LITTLE))["demo"]
    assert container(group)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod(group)["tolerations"][0]["key"] == "nvidia.com/gpu"
    none = service(LITTLE, KubeRayOptions(image="x", uses_gpus=False))
    assert served(none).deployed[0].gpus == 0
    assert "nvidia.com/gpu" not in container(groups(none)["demo"])["resources"]["limits"]


def test_an_instance_over_several_nodes_has_a_pod_on_each() -> None:
    wide = {"name": "wide", "tensor_parallel_size": 4, "pipeline_parallel_size": 2, "nnodes": 2, "surge_percent": 100}
    document = service({"models": [wide], "http": {"open": True}})
    group = groups(document)["wide"]
    # Two for the instance, two for its successor in an upgrade, and two for that of what is on a pod that goes.
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 6)
    assert group["resources"] == {"CPU": "1", "GPU": "4", "wide-place": "1"}
    assert container(group)["resources"]["limits"]["nvidia.com/gpu"] == "4"
    (model,) = served(document).deployed
    assert (model.gpus, model.nnodes) == (8, 2)


def test_files_are_where_their_secrets_are_mounted() -> None:
    document = service(LARGE, EVERYTHING)
    http = served(document).http
    router = groups(document)["routers"]
    volumes = {volume["name"]: volume for volume in pod(router)["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(router)["volumeMounts"]}
    assert http.host == "0.0.0.0" and http.tls is not None
    named = {http.keys.file: "tenants", http.secret.file: "signing", http.tls.certificate: "certificate"}
    for file, secret in named.items():
        assert file is not None
        assert mounts[file.rpartition("/")[0]]["secret"]["secretName"] == secret
    claim = mounts["/models"]["persistentVolumeClaim"]
    assert claim == {"claimName": "weights", "readOnly": True}
    # Who computes needs none of them.
    assert [volume["name"] for volume in pod(groups(document)["small"])["volumes"]] == ["claim-0", "claim-1"]


def test_secrets_are_named_and_never_written() -> None:
    document = service(LARGE, EVERYTHING)
    cluster = document["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "token"}
    reference = cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "redis", "key": "password"}
    for group in [cluster["headGroupSpec"], *groups(document).values()]:
        assert container(group)["envFrom"] == [{"secretRef": {"name": "providers"}}]
    assert service(LITTLE)["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_budgets_leave_one_pod_of_each_group_to_be_taken_and_a_head_that_is_alone_in_place() -> None:
    def budgets(fleet: dict[str, Any], options: KubeRayOptions) -> dict[str, int]:
        found = documents(fleet, options)[1:]
        assert {one["kind"] for one in found} == {"PodDisruptionBudget"}
        return {one["spec"]["selector"]["matchLabels"]["penstock/group"]: one["spec"]["minAvailable"] for one in found}

    assert budgets(LARGE, EVERYTHING) == {"routers": 1, "small": 1}
    assert budgets(LITTLE, IMAGE) == {"head": 1}
    for document in documents(LARGE, EVERYTHING):
        assert document["metadata"]["namespace"] == "serving"


def test_a_budget_selects_the_pods_of_its_group() -> None:
    document, *budgets = documents(LARGE, EVERYTHING)
    for budget in budgets:
        wanted = budget["spec"]["selector"]["matchLabels"]
        matching = [
            name
            for name, group in groups(document).items()
            if wanted.items() <= group["template"]["metadata"]["labels"].items()
        ]
        assert matching == [wanted["penstock/group"]]


@pytest.mark.parametrize(
    ("fleet", "options", "says"),
    [
        ({"models": [{"name": "demo"}]}, {}, "--env-secret"),
        (LITTLE | {"http": KEYED}, {}, "--keys-secret"),
        (LITTLE, {"keys_secret": "tenants"}, "http.keys.file"),
        (LITTLE | {"http": {"open": True, "secret": {"file": "/s"}}}, {}, "--signing-secret"),
        (LITTLE | {"http": {"open": True, "tls": {"certificate": "/c", "key": "/k"}}}, {}, "--tls-secret"),
        (LITTLE | {"http": {"open": True, "port": 0}}, {}, "http.port"),
        (LITTLE | {"database": {"file": "/x"}}, {}, "database.file"),
        (LITTLE | {"database": {"url_env": "X"}}, {}, "--env-secret"),
        (LITTLE | {"models": [{"name": "a", "options": {"model": "/home/me/llama"}}]}, {}, "--volume CLAIM:/home/me."),
        (
            LITTLE | {"models": [{"name": "a", "adapters": [{"name": "sql", "path": "/modelsx/sql"}]}]},
            {"volumes": [Volume.parse("w:/models")]},
            "models.0.adapters.0.path: no pod has /modelsx/sql",
        ),
        (LITTLE | {"name": "9"}, {}, "`name` in the fleet file"),
    ],
)
def test_what_cannot_be_in_pods_is_refused_with_the_option_that_is_missing(
    fleet: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ClusterError) as raised:
        manifest(FleetSettings.model_validate(fleet), KubeRayOptions(image="x", **options))
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kuberay"], "--image is missing"),
        (["--image", "x"], "--image goes with --kuberay or --ray-up only."),
        (["--volume", "w:/m"], "--volume goes with --kuberay only."),
        (["--kuberay", "--image", "x", "--volume", "weights"], "--volume weights:"),
        (["--kuberay", "--image", "x", "--volume", "w:/etc/penstock/keys"], "is taken in the pods"),
        (["--kuberay", "--image", "x", "--volume", "a:/m", "--volume", "b:/m"], "--volume: /m is the path of two"),
        (["--kuberay", "--image", "x", "--keys-secret", "My_Keys"], "--keys-secret My_Keys:"),
        (["--kuberay", "--image", "x", "--redis", "redis"], "--redis redis: it must be HOST:PORT."),
        (["--kuberay", "--image", "x", "--redis-password-secret", "p"], "--redis HOST:PORT"),
        (["--kuberay", "--image", "x", "--memory", "lots"], "--memory lots:"),
        (["--kuberay", "--image", "x", "--node-selector", "gpu"], "--node-selector gpu:"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["build", *arguments])
    assert isinstance(done.exception, ClusterError) and done.stdout == ""
    assert says in done.exception.message


def test_the_command_prints_what_it_says(terminal: Terminal) -> None:
    done = terminal.run(
        "build", terminal.fleet_file(), "--kuberay", "--image", "penstock:1", "--env-secret", "keys", "--no-gpus"
    )
    assert done.returncode == 0, done.stderr
    assert "# - the Secret keys: kubectl create secret generic keys" in done.stdout
    assert "Without --redis" in done.stdout
    first = next(yaml.safe_load_all(done.stdout))
    assert problems(first) == [] and container(groups(first)["sim"])["image"] == "penstock:1"


def test_models_whose_names_differ_in_letters_only_have_groups_of_their_own() -> None:
    fleet = {"models": [{"name": name, "engine": "simulated"} for name in ("a.b", "a-b", "routers", "7b")]}
    names = list(groups(service(fleet | {"http": {"open": True}})))
    assert names == ["routers", "a-b", "a-b-2", "routers-2", "model-7b"]


def test_the_documentations_fleet_and_options_make_a_manifest(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    file = tmp_path / "fleet.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    command = page[page.index("penstock build fleet.yaml --kuberay") :].partition(" > ")[0].replace("\\\n", " ")
    arguments = shlex.split(command.replace("fleet.yaml", str(file)))[1:]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    first = next(yaml.safe_load_all(done.stdout))
    assert problems(first) == [] and list(groups(first)) == ["routers", "llama"]
