# A small machine of its own: Debian with systemd as its first process. What the tests of the units run in.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends systemd ca-certificates curl \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
CMD ["/lib/systemd/systemd"]
