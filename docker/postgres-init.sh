#!/bin/sh
# One database and one role for each of Airflow and localcloud, made when the volume is new.
set -eu
for name in airflow localcloud; do
  psql -v ON_ERROR_STOP=1 -U postgres -v name="$name" -v password="$POSTGRES_PASSWORD" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
