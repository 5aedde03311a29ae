# localcloud: the API (`serve`) and its workers (`work`).
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
# bubblewrap: models of other frameworks than ONNX are loaded inside it only.
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 50001 localcloud
WORKDIR /opt/model-delivery
COPY constraints-bootstrap.txt constraints.txt ./
COPY include/engine include/engine
COPY include/localcloud include/localcloud
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r constraints-bootstrap.txt \
 && sed -E '/^ +--hash/d; s/ \\$//' constraints.txt > /tmp/versions.txt \
 && /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python -c /tmp/versions.txt \
      './include/engine[compile]' './include/localcloud[postgres]'
ENV PATH=/opt/venv/bin:$PATH LOCALCLOUD_HOME=/var/lib/localcloud
RUN install -d -o localcloud /var/lib/localcloud
USER localcloud
ENTRYPOINT ["model-delivery-localcloud"]
