# Serves a model folder or a finished run, as a page and as JSON:
#
#   docker build -t residua-serve .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/photos:/model:ro" residua-serve
#
# The page is then at http://localhost:8000.  Under any other name, give it after the image's:
# residua-serve --allow-host photos.example.  It has no accounts and no encryption (SECURITY.md).
#
# This image was never built.  tests/test_dockerfile.py tries its RUN lines, its command and its
# health check in an environment without residua; not the base image, nor the download of packages.
FROM python:3.11-slim

# "openvino" classifies faster and needs more space.
ARG EXTRAS=serve,explain,heic
# An index of wheels of torch without CUDA makes the image much smaller.
ARG PIP_EXTRA_INDEX_URL=

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY residua residua
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

# Not root; USER is a name for libraries that ask for one, and HOME a place for their caches.
WORKDIR /tmp
USER 10001:10001
ENV HOME=/tmp USER=residua PYTHONUNBUFFERED=1

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "from http.client import *; c = HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["residua", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
