# asymtalker serve in a container: docker build --target cpu -t asymtalker .   (or --target cuda)
#   docker run --rm -p 127.0.0.1:7860:7860 -e ASYMTALKER_TOKEN=... -v asymtalker:/data asymtalker
#   docker run --rm --gpus all -p 127.0.0.1:7860:7860 -e ASYMTALKER_TOKEN=... -v asymtalker:/data asymtalker:cuda
# runs/container.sh does the same steps without a container engine, in a clean root, and checks what comes out.

FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/asymtalker
ENV PATH=/opt/asymtalker/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./

FROM base AS build-cpu
RUN grep ^torch== constraints.txt > torch.txt \
    && pip install --no-deps --index-url https://download.pytorch.org/whl/cpu -r torch.txt
COPY src src
RUN pip install --constraint constraints.txt ".[serve]"

FROM base AS build-cuda
# PyTorch's build of the usual index brings CUDA's libraries along; the driver is the host's.
COPY src src
RUN pip install --constraint constraints.txt ".[serve]"

FROM python:3.11-slim-bookworm AS run
RUN useradd --system --uid 10001 --create-home --home-dir /home/asymtalker asymtalker \
    && install -d -o asymtalker -g asymtalker -m 700 /data
ENV PATH=/opt/asymtalker/bin:$PATH PYTHONUNBUFFERED=1
USER asymtalker
WORKDIR /home/asymtalker
VOLUME /data
EXPOSE 7860
# The API answers at once, the model takes some seconds longer.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/readyz', timeout=4)"]
# Beyond loopback a token is needed: without ASYMTALKER_TOKEN this says so and ends.
ENTRYPOINT ["asymtalker", "serve", "--host", "0.0.0.0", "--data", "/data"]

FROM run AS cuda
COPY --from=build-cuda /opt/asymtalker /opt/asymtalker

FROM run AS cpu
COPY --from=build-cpu /opt/asymtalker /opt/asymtalker
