# The worker image for Dataflow, Flink and Spark: Beam's own image with this project and what it pins.
#
#   docker build --tag REGION-docker.pkg.dev/PROJECT/REPOSITORY/image-shards:0.2.0 .
#   image-shards prepare ... --sdk_container_image=THAT --sdk_location=container
#
# The launcher must run the same minor version of Python and the same version of Beam.
FROM apache/beam_python3.11_sdk:2.77.0

# Beam would make a virtual environment for each job, without what is installed here.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1

WORKDIR /image-shards
COPY requirements.lock .
RUN pip install --no-cache-dir --requirement requirements.lock
COPY setup.py pyproject.toml README.md LICENSE ./
COPY beam_jobs beam_jobs
COPY shard_reader shard_reader
RUN pip install --no-cache-dir --no-deps . \
    && pip check \
    && python -P -c "import adlfs, aiohttp, beam_jobs.runners.pipeline, beam_jobs.shards.write, gcsfs, s3fs, shard_reader"

# The entry point is Beam's own, /opt/apache/beam/boot, inherited.
