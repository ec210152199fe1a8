# Build from the repository's root: docker build -f deploy/docker/gateway.Dockerfile .
FROM python:3.12-slim AS packages
COPY deploy/requirements/gateway.txt deploy/requirements/otel.txt /requirements/
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --require-hashes \
    -r /requirements/gateway.txt -r /requirements/otel.txt

FROM python:3.12-slim
RUN useradd --uid 10001 --home-dir /tmp --no-create-home diptych
COPY --from=packages /venv /venv
WORKDIR /app
COPY deploy/docker/probe.py ./
COPY shared shared
COPY services/__init__.py services/
COPY services/gateway services/gateway
COPY diptych diptych
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    DIPTYCH_GATEWAY_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s CMD ["python", "probe.py", "8000"]
ENTRYPOINT ["python", "-m", "diptych"]
CMD ["serve", "gateway"]
