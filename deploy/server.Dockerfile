# The server alone, for docker-compose.yml and fly.toml: programs that were built before (`make binaries`), no shell tools beyond
# Debian's own. Runs as a user without a name, on a read-only root file system, without capabilities.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ca-certificates \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 0700 /var/lib/agent-creds /run/agent-creds

COPY agent-creds actl mint /usr/local/bin/
COPY serve.sh /usr/local/bin/agent-creds-service
USER 65532:65532
VOLUME ["/var/lib/agent-creds", "/run/agent-creds"]
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s CMD ["actl", "status", "--state-dir", "/var/lib/agent-creds", "--runtime-dir", "/run/agent-creds"]
CMD ["agent-creds-service"]
