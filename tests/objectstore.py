"""An S3-compatible server on loopback (moto), in a process of its own that outlives killed ones.

Usage: python -m tests.objectstore    (prints its port, ends with its standard input)
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests import ROOT

BUCKET = "bucket"


@contextmanager
def serve() -> Iterator[dict[str, str]]:
    """Starts a server with one bucket; yields the variables with which a client finds it."""
    command = [sys.executable, "-m", "tests.objectstore"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        port = int(server.stdout.readline())
        yield build_environment(f"http://127.0.0.1:{port}")
        server.kill()


def build_environment(endpoint: str) -> dict[str, str]:
    """Returns the variables that name an endpoint and hold keys; none of the user's is left."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def main() -> None:
    """Serves until standard input ends."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(build_environment(f"http://{host}:{port}"))
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    print(port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
