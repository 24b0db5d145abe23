# What every pod runs, and `docker run` by itself: Python, the pinned dependencies, the code and the embedded model.
# `make image` builds it; docs/operations.md says how to run, tag and scan it.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS python
# Debian's archive keeps no old versions: what is newest is taken, with its security fixes. Builders that set all
# times to one, so that builds are reproducible, would make bytecode stale that is checked by time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3.11 tini tzdata wget \
    && python3.11 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3.11 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig /var/log/*.log /var/log/apt

FROM python AS dependencies
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3.11-venv
WORKDIR /build
COPY pyproject.toml constraints.txt image/install.sh ./
# cpu or cuda
ARG VARIANT=cpu
# Where torch's wheels for CPUs are. Pip asks PyPI too, or what the secret says.
ARG EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    bash install.sh "$VARIANT" "$EXTRA_INDEX_URL"

FROM python AS code
WORKDIR /app
COPY . .
RUN rm -r image \
    && python3.11 -m compileall -q --invalidation-mode unchecked-hash . \
    && chmod -R a+rX,go-w .

FROM python
# torch.compile has Triton, which builds what starts its kernels with a C compiler and Python's headers.
ARG VARIANT=cpu
# hadolint ignore=DL3008
RUN if [ "$VARIANT" = cuda ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends gcc libc6-dev libpython3.11-dev \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig /var/log/*.log /var/log/apt; \
    fi
# /data and /weights are for volumes. A login shell forgets PATH but looks into /usr/local/bin.
RUN groupadd --gid 1000 limner \
    && useradd --no-log-init --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin limner \
    && install --directory --owner=1000 --group=1000 /data /weights \
    && ln -s /opt/venv/bin/ray /opt/venv/bin/serve /usr/local/bin/
COPY --chmod=755 image/limner.sh /usr/local/bin/limner
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=code /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    HOME=/tmp \
    LIMNER_HOST=0.0.0.0 \
    LIMNER_PORT=8000 \
    LIMNER_DATA=/data \
    LIMNER_WEIGHTS=/weights
WORKDIR /app
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s \
    CMD ["sh", "-c", "wget -q -O /dev/null http://127.0.0.1:$LIMNER_PORT/readyz"]
# Ray leaves processes behind when replicas die; somebody has to be their parent.
ENTRYPOINT ["tini", "--"]
CMD ["limner", "serve"]
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Limner" \
      org.opencontainers.image.description="Image generation as a Ray Serve application" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.licenses="Apache-2.0"
