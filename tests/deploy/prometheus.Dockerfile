# Stands for prom/prometheus, which comes from a registry: Debian's Prometheus with the same user, folders and entry point.
FROM debian:12.12-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus \
 && rm -rf /etc/prometheus/* /var/lib/apt/lists/* && mkdir /prometheus && chown nobody:nogroup /prometheus
USER nobody
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
