# Publishes the model that comes with Diptych and indexes /photos, then ends. It is also the console command for the store.
# Build from the repository's root: docker build -f deploy/docker/publish.Dockerfile .
FROM python:3.12-slim AS packages
COPY deploy/requirements/encoder.txt deploy/requirements/index.txt /requirements/
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --require-hashes \
    -r /requirements/encoder.txt -r /requirements/index.txt

# The gallery's photos lie in the wheels of packages that nothing else here needs.
FROM python:3.12-slim AS gallery
COPY deploy/requirements/serve.txt /requirements.txt
RUN pip install --no-cache-dir --no-compile --require-hashes -r /requirements.txt
WORKDIR /app
COPY diptych diptych
RUN python -c "from diptych.collection import Path, gallery, lay_out; lay_out(gallery.photos(), Path('/photos'))"

FROM python:3.12-slim
RUN useradd --uid 10001 --home-dir /tmp --no-create-home diptych \
 && install --directory --owner diptych --group diptych /var/lib/diptych
COPY --from=packages /venv /venv
COPY --from=gallery /photos /photos
WORKDIR /app
COPY deploy/docker/publish.sh ./
COPY shared shared
COPY training training
COPY diptych diptych
COPY artifacts artifacts
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 DIPTYCH_STORE=/var/lib/diptych/store
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
CMD ["./publish.sh"]
