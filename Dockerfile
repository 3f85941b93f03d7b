# Everline as an image. UNTRIED: no test builds it. Two stages: the second holds the program only. Bases are named
# to the patch (Debian: to the day); a newer one brings its security fixes only when it is named here.
FROM rust:1.95.0-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /everline
COPY . .
RUN cargo build --release --locked --bin everline

FROM debian:bookworm-20260824-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 7700 --home-dir /var/lib/everline --create-home everline
COPY --from=build /everline/target/release/everline /usr/local/bin/everline
USER everline
WORKDIR /var/lib/everline
VOLUME /var/lib/everline
EXPOSE 7700
# SIGTERM drains: sockets are closed with 1012 spread over a few seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["everline"]
CMD ["serve"]
