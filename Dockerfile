# An image with all commands, for the CPU or, by two arguments, for NVIDIA's GPUs; docs/serve.md
# says how it is built and run.
ARG BASE=ubuntu:24.04

FROM ${BASE} AS system
# hadolint ignore=DL3008  # the release of the base pins Python 3.12
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*

FROM system AS environment
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/squeezenext/bin:$PATH
WORKDIR /source
# The packages come first: a change of the code keeps their layer.
COPY constraints.txt requirements*.txt requirements.lock ./
ARG GPU=""
RUN python3 -m venv /opt/squeezenext \
 && pip install --no-cache-dir --require-hashes -r requirements.lock \
 && pip install --no-cache-dir -c constraints.txt -r requirements-serve.txt \
    ${GPU:+-r requirements-cuda.txt}
COPY pyproject.toml README.md LICENSE ./
COPY squeezenext squeezenext
COPY configs configs
COPY datasets datasets
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM system
COPY --from=environment /opt/squeezenext /opt/squeezenext
# Any user can be given: HOME, for caches, is where everybody may write.
ENV PATH=/opt/squeezenext/bin:$PATH HOME=/tmp
WORKDIR /data
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["squeezenext"]
CMD ["--help"]
