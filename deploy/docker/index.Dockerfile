# Build from the repository's root: docker build -f deploy/docker/index.Dockerfile .
# With --build-arg LOCK=index-milvus it can serve from Milvus.
FROM python:3.12-slim AS packages
ARG LOCK=index
COPY deploy/requirements/${LOCK}.txt deploy/requirements/otel.txt /requirements/
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --require-hashes \
    -r /requirements/${LOCK}.txt -r /requirements/otel.txt

FROM python:3.12-slim
RUN useradd --uid 10001 --home-dir /tmp --no-create-home diptych \
 && install --directory --owner diptych --group diptych /var/lib/diptych
COPY --from=packages /venv /venv
WORKDIR /app
COPY deploy/docker/probe.py ./
COPY shared shared
COPY services/__init__.py services/
COPY services/index services/index
COPY diptych diptych
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    DIPTYCH_INDEX_HOST=0.0.0.0 DIPTYCH_STORE=/var/lib/diptych/store
USER 10001:10001
EXPOSE 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s CMD ["python", "probe.py", "8002"]
ENTRYPOINT ["python", "-m", "diptych"]
CMD ["serve", "index"]
