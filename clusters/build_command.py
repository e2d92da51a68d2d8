"""`penstock build`: the files that others deploy a fleet by."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clusters.errors import ClusterError
from clusters.fleet_file import DEMO_FLEET, load_fleet
from clusters.kuberay.options import KubeRayOptions, SecretKey, Volume, parse_node_selector

_KUBERAY, _RAY_UP, _BOTH = "With --kuberay", "With --ray-up", "With --kuberay or --ray-up"
_DEFAULTS = KubeRayOptions(image="any")


def _option(text: str, *names: str, panel: str = _KUBERAY, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def _machines(text: str, *names: str, **more: Any) -> Any:
    return _option(text, *names, panel=_RAY_UP, **more)


def build(
    context: typer.Context,
    fleet: Annotated[Path | None, typer.Argument(metavar="[FLEET.yaml]", help="The fleet; default: the demo.")] = None,
    kuberay: Annotated[bool, typer.Option("--kuberay", help="As a RayService, for `kubectl apply`.")] = False,
    ray_up: Annotated[
        Literal["aws", "gcp", "local"] | None,
        typer.Option(help="As a file for Ray's cluster launcher, `ray up`; local: on machines of one's own."),
    ] = None,
    image: Annotated[str | None, _option("Image of all pods, or of the machines' containers.", panel=_BOTH)] = None,
    namespace: Annotated[str | None, _option("Namespace of all objects; default: kubectl's.")] = None,
    volume: Annotated[
        list[str] | None, _option("A PersistentVolumeClaim with weights: CLAIM:/PATH[:ro]. May be repeated.")
    ] = None,
    env_secret: Annotated[
        list[str] | None,
        _option("A Secret whose entries are the pods' environment: PENSTOCK_API_KEYS, HF_TOKEN. May be repeated."),
    ] = None,
    keys_secret: Annotated[
        str | None, _option("The Secret with the file of keys (http.keys.file), as its entry keys.yaml.")
    ] = None,
    signing_secret: Annotated[str | None, _option("The Secret with http.secret.file, as its entry `secret`.")] = None,
    tls_secret: Annotated[str | None, _option("The Secret with the certificate (http.tls).")] = None,
    token_secret: Annotated[
        str | None, _option("The Secret with Ray's token, as its entry auth_token; default: KubeRay makes one.")
    ] = None,
    redis: Annotated[str | None, _option("HOST:PORT of a Redis, with which the fleet outlives its head.")] = None,
    redis_password_secret: Annotated[
        str | None, _option("The Secret with its password: NAME, whose entry is `password`, or NAME/ENTRY.")
    ] = None,
    gpus: Annotated[bool, _option("Whether engines that can use GPUs get some.")] = True,
    gpu_resource: Annotated[str, _option("What Kubernetes calls them.")] = _DEFAULTS.gpu_resource,
    node_selector: Annotated[
        list[str] | None, _option("A label of the nodes for instances: KEY=VALUE. May be repeated.")
    ] = None,
    memory: Annotated[str | None, _option("Memory of an instance's pod; default: 16Gi for each GPU.")] = None,
    router_memory: Annotated[str, _option("Memory of a router's pod.")] = _DEFAULTS.router_memory,
    head_memory: Annotated[str, _option("Memory of the head.")] = _DEFAULTS.head_memory,
    longest_stream: Annotated[
        int, _option("Seconds that streams of the old cluster get in an upgrade by a new one.", min=0, max=604_800)
    ] = _DEFAULTS.longest_stream_s,
    notice: Annotated[
        int, _option("Seconds that a pod which is to go waits for its successor to boot.", min=0, max=86_400)
    ] = _DEFAULTS.notice_s,
    upgrade: Annotated[
        Literal["NewCluster", "None"],
        _option("Whether changed pods come as a new cluster beside the old one, or not at all."),
    ] = "NewCluster",
    service_type: Annotated[
        Literal["ClusterIP", "NodePort", "LoadBalancer"], _option("Type of the Service.")
    ] = "ClusterIP",
    region: Annotated[str | None, _machines("Region; default: us-west-2, us-central1.")] = None,
    zone: Annotated[str | None, _machines("Zone; default: the region's first.")] = None,
    project: Annotated[str | None, _machines("Google Cloud's project.")] = None,
    machine_image: Annotated[
        str | None, _machines("What machines boot from, with Docker and the GPUs' driver; on AWS Ray has a default.")
    ] = None,
    cpu_node: Annotated[str | None, _machines("Type of machines without GPUs, and what one has: TYPE:CPUS.")] = None,
    gpu_node: Annotated[str | None, _machines("Type of machines with GPUs: TYPE:CPUS:GPUS.")] = None,
    head_ip: Annotated[str | None, _machines("local: address of the head.")] = None,
    worker_ip: Annotated[list[str] | None, _machines("local: address of another machine. May be repeated.")] = None,
    programs: Annotated[
        str | None, _machines("local, without --image: folder of Penstock's programs on the machines.", "--bin")
    ] = None,
    ssh_user: Annotated[str | None, _machines("Who logs in to the machines.")] = None,
    ssh_key: Annotated[Path | None, _machines("File of that user's private key; default: Ray makes one.")] = None,
    env_file: Annotated[
        Path | None, _machines("File of environment variables for the machines: NAME=VALUE a line.")
    ] = None,
) -> None:
    """Prints a fleet as a file for others: Ray Serve's config (`serve deploy`), or what --kuberay and --ray-up say."""
    _check_given(context, kuberay=kuberay, ray_up=ray_up is not None)
    file = fleet or DEMO_FLEET
    if ray_up is not None:
        from clusters.ray_up import MachineType, RayUpOptions, launcher_file

        machines = RayUpOptions(
            provider=ray_up,
            image=image,
            programs=programs,
            region=region,
            zone=zone,
            project=project,
            head_ip=head_ip,
            worker_ips=worker_ip or (),
            ssh_user=ssh_user,
            ssh_key=ssh_key,
            env_file=env_file,
            machine_image=machine_image,
            cpu_node=None if cpu_node is None else MachineType.parse("--cpu-node", cpu_node),
            gpu_node=None if gpu_node is None else MachineType.parse("--gpu-node", gpu_node),
        )
        typer.echo(launcher_file(load_fleet(file), file, machines), nl=False)
        return
    if not kuberay:
        from clusters.serve_config import serve_config

        typer.echo(serve_config(load_fleet(file)), nl=False)
        return
    if image is None:
        raise ClusterError("--image is missing: the image that all pods run, built from Penstock's Dockerfile.")
    options = KubeRayOptions(
        image=image,
        namespace=namespace,
        volumes=[Volume.parse(text) for text in volume or ()],
        env_secrets=env_secret or (),
        keys_secret=keys_secret,
        signing_secret=signing_secret,
        tls_secret=tls_secret,
        token_secret=token_secret,
        redis=redis,
        redis_password=None
        if redis_password_secret is None
        else SecretKey.parse("--redis-password-secret", redis_password_secret, "password"),
        uses_gpus=gpus,
        gpu_resource=gpu_resource,
        node_selector=parse_node_selector(node_selector or ()),
        memory=memory,
        router_memory=router_memory,
        head_memory=head_memory,
        longest_stream_s=longest_stream,
        notice_s=notice,
        upgrade=upgrade,
        service_type=service_type,
    )
    from clusters.kuberay.manifest import manifest

    typer.echo(manifest(load_fleet(file), options), nl=False)


def _check_given(context: typer.Context, *, kuberay: bool, ray_up: bool) -> None:
    """Checks that each option goes with the kind of file that is asked for.

    Raises:
        ClusterError: One does not.
    """
    if kuberay and ray_up:
        raise ClusterError("Give either --kuberay or --ray-up.")
    asked = {_KUBERAY: kuberay, _RAY_UP: ray_up, _BOTH: kuberay or ray_up}
    for parameter in context.command.params:
        panel = getattr(parameter, "rich_help_panel", None)
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and not asked.get(str(panel), True):
            raise ClusterError(f"{parameter.opts[0]} goes {str(panel).replace('With', 'with')} only.")
