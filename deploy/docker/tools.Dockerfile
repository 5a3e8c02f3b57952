# syntax=docker/dockerfile:1
# The command line beside a running server, for `ebbtide deploy` and `ebbtide recommend`: no torch and no Triton in it.
#
#   docker build --file deploy/docker/tools.Dockerfile --tag ebbtide-tools:0.1.0 .
#
# The context is the repository's root; tools.Dockerfile.dockerignore keeps all but the sources out.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim

# `ebbtide deploy` computes the answers that the new version should give with onnx, ONNX Runtime and tokenizers. The extra
# `serve` would bring both, and a Triton of its own.
RUN --mount=type=bind,target=/src \
    python3 -m pip install --no-cache-dir --constraint /src/constraints.txt \
        "/src[cli]" onnx onnxruntime platformdirs tokenizers \
    && ebbtide --help > /dev/null

# The same number as the server's: what it writes to the shared volume, the server can read.
USER 1000:1000
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1

ENTRYPOINT ["ebbtide"]
CMD ["--help"]
