# The program alone, on Debian. Build: docker build -t pgsluice .
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package pgsluice

FROM debian:bookworm-slim
RUN useradd --system --no-create-home pgsluice
COPY --from=build /src/target/release/pgsluice /usr/local/bin/pgsluice
USER pgsluice
EXPOSE 6432
# Running transactions finish, then it ends.
STOPSIGNAL SIGINT
ENTRYPOINT ["pgsluice"]
