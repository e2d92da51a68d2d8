# syntax=docker/dockerfile:1.10
# One image for the head, routers and instances of a Ray cluster:
#   docker build -t penstock:cpu .
#   docker build -t penstock:gpu --build-arg ACCELERATOR=gpu .
# What is in it is pinned by locks/, and each file held to its hash. Models are not in it: mount them.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG ACCELERATOR=cpu
WORKDIR /opt/penstock
COPY pyproject.toml README.md LICENSE ./
COPY scripts/install scripts/install
COPY locks locks
COPY engines engines
COPY actors actors
COPY deployments deployments
COPY clusters clusters
# A package index of your own: PIP_INDEX_URL=... docker build --secret id=index,env=PIP_INDEX_URL
RUN --mount=type=secret,id=index,env=PIP_INDEX_URL \
    scripts/install "$ACCELERATOR"

FROM python:${PYTHON}-slim-bookworm
# g++ compiles what torch and triton make of a model when it boots, libnuma is vLLM's on CPUs, wget asks KubeRay's probes,
# and the SSH client and rsync are for Ray's cluster launcher.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 openssh-client procps rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash ray
COPY --from=build /opt/penstock /opt/penstock
# The driver of the node, which NVIDIA's runtime mounts where there is one.
ENV PATH=/opt/penstock/.venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /home/ray
USER 1000:1000
CMD ["penstock", "--help"]
