# The environment of requirements.lock; the checkout is mounted, so that the code that runs is the code that dvc.lock names:
#   docker build --tag backtrail .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/backtrail" backtrail
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory '*' \
 && useradd --create-home --uid 1000 backtrail \
 && chmod 1777 /home/backtrail

COPY requirements.lock requirements-uv.lock /opt/backtrail/
RUN python -m venv /opt/backtrail/venv \
 && /opt/backtrail/venv/bin/pip install --no-cache-dir --require-hashes --requirement /opt/backtrail/requirements-uv.lock \
 && VIRTUAL_ENV=/opt/backtrail/venv /opt/backtrail/venv/bin/uv pip sync --no-cache --require-hashes /opt/backtrail/requirements.lock

ENV PATH=/opt/backtrail/venv/bin:$PATH PYTHONPATH=/backtrail/src OMP_NUM_THREADS=1 HOME=/home/backtrail
USER backtrail
WORKDIR /backtrail
CMD ["snakemake", "--profile", "local"]
