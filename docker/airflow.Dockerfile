# Airflow with the provider: api-server, scheduler, dag-processor, triggerer and Celery workers.
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
RUN useradd --create-home --uid 50000 airflow
WORKDIR /opt/model-delivery
COPY constraints-bootstrap.txt constraints.txt ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r constraints-bootstrap.txt \
 && /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --require-hashes -r constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY plugins plugins
COPY include/engine include/engine
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --no-deps \
      --no-build-isolation . include/engine \
 && rm -rf plugins
COPY dags /opt/airflow/dags
ENV PATH=/opt/venv/bin:$PATH AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False
RUN chown -R airflow /opt/airflow
USER airflow
ENTRYPOINT ["airflow"]
