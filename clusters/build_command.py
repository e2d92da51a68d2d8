"""`penstock build`: the files that others deploy a fleet by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clusters.errors import ClusterError
from clusters.fleet_file import DEMO_FLEET, load_fleet
from clusters.kuberay.options import KubeRayOptions, SecretKey, Volume, parse_node_selector

_PANEL = "With --kuberay"
_DEFAULTS = KubeRayOptions(image="any")


def _option(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_PANEL, **more)


def build(
    context: typer.Context,
    fleet: Annotated[Path | None, typer.Argument(metavar="[FLEET.yaml]", help="The fleet; default: the demo.")] = None,
    kuberay: Annotated[bool, typer.Option("--kuberay", help="As a RayService, for `kubectl apply`.")] = False,
    image: Annotated[str | None, _option("Image of all pods.")] = None,
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
) -> None:
    """Prints a fleet as a file for others: Ray Serve's config (`serve deploy`), or with --kuberay a RayService."""
    if not kuberay:
        if given := _given(context):
            raise ClusterError(f"{given} is for Kubernetes: with --kuberay only.")
        from clusters.serve_config import serve_config

        typer.echo(serve_config(load_fleet(fleet or DEMO_FLEET)), nl=False)
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

    typer.echo(manifest(load_fleet(fleet or DEMO_FLEET), options), nl=False)


def _given(context: typer.Context) -> str:
    """The first option for another kind of file that was given; empty: none was."""
    ours: Sequence[Any] = [one for one in context.command.params if getattr(one, "rich_help_panel", None) == _PANEL]
    for parameter in ours:
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "COMMANDLINE":
            return str(parameter.opts[0])
    return ""
