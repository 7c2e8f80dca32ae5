# The five binaries in one image; the command selects one. Also builds without BuildKit:
#   docker build --tag lambda-platform:dev .
# If you use a registry, pin the base images by digest:
#   --build-arg RUNTIME=gcr.io/distroless/cc-debian13:nonroot@sha256:…
ARG RUST=rust:1.95-slim-trixie
ARG RUNTIME=gcr.io/distroless/cc-debian13:nonroot

# The workspace without its sources, except the root file of each Cargo target. Changes only when
# dependencies or targets change.
FROM ${RUST} AS skeleton
WORKDIR /skeleton
COPY . .
RUN find . -path '*/src/*' -name '*.rs' ! -name lib.rs ! -name main.rs ! -path '*/src/bin/*' -delete \
 && find . -type f ! -name '*.rs' ! -name 'Cargo.*' ! -path './.cargo/*' -delete \
 && find . -type d -empty -delete \
 && find . -name '*.rs' -exec sh -c 'for file; do printf "//! Nothing yet.\\nfn main() { }\\n" > "$file"; done' sh {} +

FROM ${RUST} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ make perl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY --from=skeleton /skeleton .
RUN cargo build --release --locked --package lambda-bins --features kafka-tls
COPY . .
# Cargo compares times, and the sources are older than the empty build above, so touch them. Do
# not touch what build scripts of dependencies wrote, or these would be built again.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package lambda-bins --features kafka-tls \
 && mkdir /binaries \
 && for name in lambda lambda-consumer lambda-csv-batch lambda-db-setup lambda-producer-stream; do \
      cp "target/release/$name" /binaries/ || exit 1; \
    done

FROM ${RUNTIME}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lambda-platform" \
      org.opencontainers.image.description="Lands transactions in PostgreSQL, live from Kafka and nightly from files, exactly once" \
      org.opencontainers.image.source="https://github.com/lambda-platform/lambda" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /binaries /usr/local/bin/
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/lambda/
# glibc gives the memory of large batches back at once (docs/operating.md, Memory).
ENV MALLOC_MMAP_THRESHOLD_=4194304
USER 65532:65532
WORKDIR /
CMD ["lambda", "--help"]
