# syntax=docker/dockerfile:1
# The image with an exported repository inside: nothing is mounted, and image and models roll out and back together.
#
#   docker build --file deploy/docker/baked.Dockerfile --tag ebbtide-triton:24.10-beb7611c artifacts/repository
#
# The build context is the exported folder. `ebbtide deploy` cannot change such a server: roll out another tag instead.
ARG EBBTIDE_IMAGE=ebbtide-triton:24.10
FROM ${EBBTIDE_IMAGE}
# The server can read the files, whatever their modes were; root owns them, so the server cannot change them.
COPY --chown=0:0 --chmod=755 . /mnt/models
