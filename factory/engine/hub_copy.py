"""A data set on the Hub, fetched to the Hub's cache: all of it that is read."""

from factory.core.errors import InputError, StoreError

PUBLISHED = ("*.json", "README.md", "data/*", "rejected/*", "webdataset/*")
"""What is fetched."""


def fetch_copy(name: str, revision: str | None) -> str:
    """Returns the folder of the Hub's cache that holds a data set, fetched where it is not there.

    Raises:
        InputError: no such data set or revision.
        StoreError: the Hub cannot be reached.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    at = f"{name}@{revision}" if revision else name
    try:
        return snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=list(PUBLISHED)
        )
    except hub.RevisionNotFoundError as error:
        raise InputError(f"{at}: no such revision on the Hub") from error
    except hub.RepositoryNotFoundError as error:
        raise InputError(
            f"{at}: no such folder, and no such data set on the Hub, or a private one: check the "
            "name, or set HF_TOKEN"
        ) from error
    except (hub.HfHubHTTPError, hub.LocalEntryNotFoundError, OSError) as error:
        raise StoreError(
            f"{at}: no such folder, and the Hub cannot be reached ({type(error).__name__}): give a "
            "folder, or go online and unset HF_HUB_OFFLINE"
        ) from error
