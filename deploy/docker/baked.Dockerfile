# syntax=docker/dockerfile:1
# The image with one exported repository inside: nothing to mount, and image and models roll out and back as one.
#
#   docker build --file deploy/docker/baked.Dockerfile --tag ebbtide-triton:24.10-beb7611c artifacts/repository
#
# The context is the exported folder. `ebbtide deploy` cannot change such a server: roll out another tag instead.
ARG EBBTIDE_IMAGE=ebbtide-triton:24.10
FROM ${EBBTIDE_IMAGE}
# Readable by the server whatever modes the files had, and owned by root, so that it cannot change them.
COPY --chown=0:0 --chmod=755 . /mnt/models
