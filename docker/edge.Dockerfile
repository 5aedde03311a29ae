# The device agent: no Airflow, no cloud SDK.
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
RUN useradd --create-home --uid 50002 edge
WORKDIR /opt/model-delivery
COPY constraints-bootstrap.txt constraints.txt ./
COPY include/engine include/engine
COPY include/edge include/edge
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r constraints-bootstrap.txt \
 && sed -E '/^ +--hash/d; s/ \\$//' constraints.txt > /tmp/versions.txt \
 && /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python -c /tmp/versions.txt \
      ./include/engine ./include/edge
ENV PATH=/opt/venv/bin:$PATH
RUN install -d -o edge /var/lib/edge
USER edge
ENTRYPOINT ["model-delivery-edge"]
