# GPU image: vLLM's own image by digest, the harness beside it in an environment of its own, so that neither moves the other's packages.
#
#   docker build -t colossus-harness .
#   docker run --rm --gpus all --ipc=host --ulimit nofile=65536:65536 \
#     -v "$HOME/.cache/huggingface:/root/.cache/huggingface" -v "$HOME/.cache/vllm:/root/.cache/vllm" \
#     -v "$PWD/results:/srv/results" -e HF_TOKEN colossus-harness run loadprofiles/gpu-chat.yaml
#
# --ipc=host: tensor-parallel workers share memory. The cache volumes keep weights and compiled kernels between runs: a cold start can
# take 30 minutes. Changing the base: put the new tag and digest here, and nothing else.
FROM vllm/vllm-openai:v0.30.0@sha256:8a69ffad015f138d7170c4ddc429e230a3bc1c1719f67e14324749df200a4b90

WORKDIR /srv

# Dependencies first: this layer changes only with the two files that name them.
COPY pyproject.toml constraints.txt README.md LICENSE /opt/src/
COPY harness/__init__.py /opt/src/harness/__init__.py
RUN mkdir /opt/src/loadprofiles && python3 -m venv /opt/harness \
 && PIP_CONSTRAINT=/opt/src/constraints.txt /opt/harness/bin/python -m pip install --no-cache-dir /opt/src

COPY harness /opt/src/harness
COPY loadprofiles /opt/src/loadprofiles
RUN PIP_CONSTRAINT=/opt/src/constraints.txt /opt/harness/bin/python -m pip install --no-cache-dir --no-deps --force-reinstall /opt/src

COPY loadprofiles /srv/loadprofiles

# Which Python has vLLM, for profiles that do not say; the commit, for the manifest (there is no .git here).
ARG HARNESS_COMMIT=unknown
ENV HARNESS_VLLM_PYTHON=/usr/bin/python3 \
    HARNESS_COMMIT=${HARNESS_COMMIT} \
    HF_HUB_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1

ENTRYPOINT ["/opt/harness/bin/harness"]
CMD ["--help"]
