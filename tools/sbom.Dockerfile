# Says what is in the Python environment of a finished IMAGE, as CycloneDX on standard output.
ARG PYTHON_IMAGE=python:3.11-slim
ARG IMAGE
FROM ${IMAGE} AS image

FROM ${PYTHON_IMAGE}
RUN python -m venv /opt/cyclonedx && /opt/cyclonedx/bin/pip install --quiet --no-cache-dir cyclonedx-bom==7.5.0
COPY pyproject.toml /
COPY --from=image /opt/venv /opt/venv
CMD ["/opt/cyclonedx/bin/cyclonedx-py", "environment", "--pyproject", "/pyproject.toml", "/opt/venv"]
