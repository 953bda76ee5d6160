# Ray's head, its workers and the submitter of a study, in one image. `.ci/image` builds it with
# podman; elsewhere `docker build --build-arg VERSION=... --build-arg REVISION=... .` does.
#
# Python's own base and not Ray's: every version then comes from the pinned list, torch's wheels
# bring CUDA's libraries along, and nothing is in it twice.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS wheel
WORKDIR /src
COPY .docker/tools.txt ./
RUN python3.11 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r tools.txt
COPY LICENSE README.md pyproject.toml ./
COPY raytransfer raytransfer
COPY tune_spaces tune_spaces
RUN /opt/venv/bin/hatchling build -t wheel -d /dist \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --prefix /opt/raytransfer /dist/*.whl

FROM ${BASE_IMAGE}
# wget is for KubeRay's probes, certificates are for object stores. Debian keeps no old versions to
# pin. Python's base comes without bytecode of its own.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --gid 100 --no-create-home --home-dir /tmp --shell /bin/bash ray \
    && python3.11 -c "import compileall, os; \
        compileall.compile_dir(os.path.dirname(os.__file__), quiet=1)"
COPY .docker /opt/pins
# Bytecode is compiled here, as nothing can be written where it runs.
RUN export HOME=/tmp/tools \
    && python3.11 -m venv /tmp/tools \
    && /tmp/tools/bin/pip install --no-cache-dir --only-binary :all: --require-hashes \
        -r /opt/pins/tools.txt \
    && /tmp/tools/bin/uv venv --python python3.11 /opt/venv \
    && /tmp/tools/bin/uv pip install --python /opt/venv --no-build --require-hashes \
        --compile-bytecode -r /opt/pins/requirements.txt \
    && rm -rf /tmp/tools
COPY --from=wheel /opt/raytransfer /opt/venv
# /tmp is the one folder that must be writable: sessions of Ray and all caches are there.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /tmp
USER 1000:100
CMD ["raytransfer", "--help"]

ARG VERSION
ARG REVISION
ENV RAYTRANSFER_REVISION=${REVISION}
LABEL org.opencontainers.image.title="raytransfer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
