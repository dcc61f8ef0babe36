"""Fetches a finished run from an object store to a temporary folder, from where it is published."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory

from factory.core.errors import InputError
from factory.engine.dataset import Dataset
from factory.engine.finalise import SUMMARY
from factory.engine.summary import RECIPE
from factory.publish.card.citation import CITATION_FILE
from factory.publish.card.header import LICENCE_FILE
from factory.publish.card.prov import PROV_FILE
from factory.publish.hub.finished import refuse_merged
from factory.publish.hub.items import CARD, CHUNK, DOCUMENT_FOLDERS
from factory.publish.hub.target import Say

DOCUMENTS = (RECIPE, CARD, LICENCE_FILE, CITATION_FILE, PROV_FILE)


@contextmanager
def fetch_run(source: str, say: Say) -> Iterator[Path]:
    """Yields the folder of a run: itself where it is local, else a copy without its shards.

    Args:
        source: folder or fsspec URL.
        say: called with a line before anything is fetched.

    Raises:
        InputError: not a finished run.
        StoreError: it cannot be read.
    """
    if "://" not in source:
        yield Path(source)
        return
    run = Dataset(source)
    refuse_merged(run)
    summary, problem = run.summary, run.unfinished
    if summary is None or problem:
        raise InputError(
            f"{source}: not finished: {problem}: run the recipe into it to the end first"
        )
    names = [*summary.hashes, SUMMARY]
    names += [name for name in DOCUMENTS if run.files.exists(name)]
    for folder, suffix in DOCUMENT_FOLDERS.items():
        listed = (name for name in run.files.list(folder) if name.endswith(suffix))
        names += [f"{folder}/{name}" for name in listed]
    say(f"fetching {len(names):,} files of {source}")
    with TemporaryDirectory(prefix="factory-publish-") as place:
        for name in names:
            path = Path(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with run.files.open(name, "rb") as stream, path.open("wb") as target:
                copyfileobj(stream, target, CHUNK)
        yield Path(place)
