# The image of mig-device-plugin; docs/image.md says how it is built and tested.

# Any two images will do that hold the same Python >= 3.11 at the same path, and a C library no newer in the first than
# in the second: Docker's python images, or Debian with python3 (in the build image also python3-venv). Every dependency
# comes as a wheel, so not even the build image needs a compiler.
ARG BUILD_IMAGE=docker.io/library/python:3.13.9-slim-bookworm
ARG RUNTIME_IMAGE=docker.io/library/python:3.13.9-slim-bookworm

FROM ${BUILD_IMAGE} AS builder

COPY LICENSE README.md pyproject.toml /src/
COPY requirements /src/requirements
COPY plugin /src/plugin

# pip stays outside the environment that it fills, so that the image does not carry it. Another index and its
# credentials go in as the secret pip.conf, which no layer keeps.
# Everything that comes from an index is pinned with its hashes; the second step leaves the CycloneDX bill of materials.
# Byte code is compiled once here and trusted without a look at the sources' times, which copies and rebuilds change.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /build \
 && python3 -m venv --without-pip /opt/mig-device-plugin \
 && export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 \
 && /build/bin/pip install --require-hashes --only-binary=:all: --requirement /src/requirements/image.txt \
 && /build/bin/pip --python /opt/mig-device-plugin/bin/python install \
        --require-hashes --only-binary=:all: --requirement /src/requirements/product.txt \
 && /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheel /src \
 && /build/bin/pip --python /opt/mig-device-plugin/bin/python install --no-deps /build/wheel/*.whl \
 && mkdir -p /opt/mig-device-plugin/share \
 && /build/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
        --output-file /opt/mig-device-plugin/share/sbom.cdx.json /opt/mig-device-plugin/bin/python \
 && /opt/mig-device-plugin/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        /opt/mig-device-plugin/lib

FROM ${RUNTIME_IMAGE}

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mig-device-plugin" \
      org.opencontainers.image.description="Kubernetes device plugin for NVIDIA MIG" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The root file system is meant to be mounted read-only: there is nowhere to write byte code, and no need to.
ENV LANG=C.UTF-8 \
    PATH=/opt/mig-device-plugin/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1

COPY --from=builder /opt/mig-device-plugin /opt/mig-device-plugin

# Docker's python images come without byte code for the standard library, which would cost every start its compilation;
# where it is there (Debian), this changes nothing. It also fails the build when the runtime image has no interpreter
# where the environment expects it. Written without a shell: images without one can be the base.
RUN ["python", "-c", "import compileall, py_compile, re, sys, sysconfig; \
skipped = re.compile('/(config-[^/]*|ensurepip|idlelib|lib2to3|(dist|site)-packages|tests?|tkinter|turtledemo)/'); \
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH; \
sys.exit(not compileall.compile_dir(sysconfig.get_path('stdlib'), rx=skipped, quiet=1, invalidation_mode=mode))"]

# No USER: kubelet keeps /var/lib/kubelet/device-plugins at mode 0750, owned by root, and the daemon creates its sockets
# there. The chart drops the capabilities that it does not need.
# No HEALTHCHECK: Kubernetes ignores it and probes by itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mig-device-plugin"]
CMD ["run"]
