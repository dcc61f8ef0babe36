"""Test settings that must stand before any heavy library is imported: no network, few threads."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def s3_environment():
    """Variables that lead clients to an S3-compatible server of this session."""
    from tests.objectstore import serve

    with serve() as environment:
        yield environment


@pytest.fixture
def s3(s3_environment, monkeypatch):
    """The URL of a folder of its own in that server's bucket, and the way there."""
    import uuid

    import fsspec

    from tests.objectstore import BUCKET

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    # Clients are kept by bucket, not by endpoint: one of another test's server is not asked.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return f"s3://{BUCKET}/{uuid.uuid4()}"
