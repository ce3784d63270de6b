# The uvicorn door. docs/deploy.md says how to run it.
FROM python:3.13-slim

COPY requirements/serve.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.txt && rm /tmp/requirements.txt

COPY src/core /app/core
COPY src/sluice /app/sluice
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1

RUN useradd --create-home sluice
USER sluice
WORKDIR /home/sluice

EXPOSE 8080
ENTRYPOINT ["python", "-m", "sluice"]
CMD ["serve", "--addr", "0.0.0.0:8080"]
