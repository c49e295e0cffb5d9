# Debian's Prometheus, for machines that cannot pull prom/prometheus.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends prometheus \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /prometheus

USER 65532:65532
VOLUME ["/prometheus"]
HEALTHCHECK --interval=10s --timeout=5s CMD ["promtool", "query", "instant", "http://127.0.0.1:9090", "up"]
ENTRYPOINT ["prometheus"]
