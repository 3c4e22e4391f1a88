# imagepipe with every command. The steps are those of `make`: a virtual environment, the locked
# dependencies with their hashes, then the project itself.

FROM python:3.13-slim AS build
WORKDIR /app
RUN python3 -m venv .venv
COPY requirements.lock .
RUN .venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && .venv/bin/pip uninstall --yes setuptools pip

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 imagepipe
COPY --from=build /app /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER imagepipe
WORKDIR /home/imagepipe
ENTRYPOINT ["imagepipe"]
CMD ["worker"]
