# The usual image and a Java: what the tests' Java clients run in.
FROM agent-creds-sandbox
USER root
# Its packages set links in a folder that slim images leave out.
RUN mkdir -p /usr/share/man/man1 && apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends default-jdk-headless \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
USER agent
