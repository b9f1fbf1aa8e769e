# syntax=docker/dockerfile:1
FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.13.9-slim-trixie AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/gatepass
WORKDIR /src
# What Gatepass needs, as its own layer: it changes less often than Gatepass.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md LICENSE ./
COPY operator operator
COPY tools tools
RUN uv sync --frozen --no-dev --no-editable

FROM python:3.13.9-slim-trixie
COPY --from=build /opt/gatepass /opt/gatepass
ENV PATH=/opt/gatepass/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 9090
ENTRYPOINT ["gatepass"]
CMD ["operator"]
