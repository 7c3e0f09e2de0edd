"""Asks the service of this container for its health; exits with 0 if it serves.

UNIMIC_HEALTH_ADDRESS is the address (default: localhost:50051). With TLS, UNIMIC_HEALTH_CA,
UNIMIC_HEALTH_CERT and UNIMIC_HEALTH_KEY name PEM files; the last two only if clients need them.
Proxies that the environment names are not used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def pem(name: str) -> bytes | None:
    path = os.environ.get(f"UNIMIC_HEALTH_{name}")
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        sys.exit(f"UNIMIC_HEALTH_{name}: {path}: {error.strerror}")


address = os.environ.get("UNIMIC_HEALTH_ADDRESS", "localhost:50051")
authority, key, certificate = pem("CA"), pem("KEY"), pem("CERT")
if bool(key) != bool(certificate):
    sys.exit("UNIMIC_HEALTH_CERT and UNIMIC_HEALTH_KEY: name both or neither")
options = [("grpc.enable_http_proxy", 0)]
if authority:
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    channel = grpc.secure_channel(address, credentials, options)
else:
    channel = grpc.insecure_channel(address, options)
try:
    answer = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service="unimic.v1.Multimodal"), timeout=4)
except grpc.RpcError as error:
    sys.exit(f"{address}: {error.code().name}")
sys.exit(answer.status != health_pb2.HealthCheckResponse.SERVING)
