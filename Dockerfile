# Load workers (locust -f loadgen/completions.py), the simulated fleet (autoscale serve) and every other verb.
# docker build --tag registry.example.com/llm-autoscale:latest .
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY analysis analysis
COPY loadgen loadgen
COPY autoscale autoscale
RUN pip install --no-deps --require-hashes -r requirements/build.txt -r requirements/run.txt \
 && pip install --no-deps --no-build-isolation . \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin autoscale \
 && install --directory --owner autoscale /runs

# loadgen/ stays beside the installed packages: locust takes its scenario as a file.
USER 10001
# Compiled once, for this machine's kind of processor; on others at every start (load generator 6 s, simulator 17 s).
RUN python -c "import loadgen.wire.read_round, loadgen.wire.stream" \
 && cd / && python -c "from autoscale.show.progress import compiled_engine; compiled_engine()"
CMD ["autoscale", "--help"]
