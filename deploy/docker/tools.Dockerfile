# syntax=docker/dockerfile:1
# The command line for a running server (`ebbtide deploy`, `ebbtide recommend`) and the gateway (`ebbtide gateway`), without
# torch and without Triton.
#
#   docker build --file deploy/docker/tools.Dockerfile --tag ebbtide-tools:0.1.0 .
#
# The build context is the root of the source tree; tools.Dockerfile.dockerignore excludes all but the sources.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim

# `ebbtide deploy` computes the expected answers of the new version with onnx, ONNX Runtime and tokenizers. The extra
# `serve` would also install a Triton.
RUN --mount=type=bind,target=/src \
    python3 -m pip install --no-cache-dir --constraint /src/constraints.txt \
        "/src[cli,gateway,observability,state]" onnx onnxruntime platformdirs tokenizers \
    && ebbtide --help > /dev/null

# The same user number as in the server's image, so that the server can read files on the shared volume.
USER 1000:1000
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1

ENTRYPOINT ["ebbtide"]
CMD ["--help"]
