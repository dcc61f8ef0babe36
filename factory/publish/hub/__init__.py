"""Publishes a finished run: checked, licensed, sent step by step, resumed, compared, tagged.

publication = prepare_publication(folder)
target = HubTarget(HubOptions("owner/name"), say)         # or FolderTarget("s3://...", say)
publish_items(publication.items, target, publication.recipe_sha256, say)
"""

from dataclasses import dataclass
from pathlib import Path

from factory.publish.hub.documents import build_documents
from factory.publish.hub.fetched import fetch_run
from factory.publish.hub.finished import open_finished
from factory.publish.hub.folder import FolderTarget
from factory.publish.hub.items import (
    CARD,
    Item,
    check_folders,
    compute_content_digest,
    list_data,
    list_documents,
)
from factory.publish.hub.steps import Published, publish_items

__all__ = [
    "FolderTarget",
    "Item",
    "Publication",
    "Published",
    "fetch_run",
    "prepare_publication",
    "publish_items",
    "read_head",
]

HEAD_LINES = 12


@dataclass(frozen=True, slots=True)
class Publication:
    """What is published of a run.

    Attributes:
        items: the files, in the order in which they are sent, the card last.
        card: its text.
        recipe_sha256: of the recipe that made it.
        digest: one hash for all names and bytes.
        rows: accepted rows.
    """

    items: tuple[Item, ...]
    card: str
    recipe_sha256: str
    digest: str
    rows: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)


def prepare_publication(
    folder: Path,
    license_id: str | None = None,
    override: str | None = None,
    with_tars: bool = False,
    url: str | None = None,
) -> Publication:
    """Checks a finished run and returns what would be published of it; writes nothing.

    Args:
        folder: the run.
        license_id: Hub id of the licence; None: the one that its card has.
        override: who approved a use that the terms forbid, shown in the card; None: nobody.
        with_tars: publish WebDataset tars too.
        url: where it will be found on the Hub, for card and citation; None: not there.

    Raises:
        InputError: not finished, more files in a folder than the Hub takes, or the licence is
            refused (LicenceError).
        StoreError: damaged.
    """
    finished = open_finished(folder)
    data = list_data(folder, finished.hashes, with_tars)
    documents = build_documents(finished, data, license_id, override, url)
    items = (*data, *list_documents(documents))
    if url is not None:
        check_folders(items, str(folder))
    return Publication(
        items=items,
        card=documents[CARD].decode(),
        recipe_sha256=finished.summary.recipe_sha256,
        digest=compute_content_digest(items),
        rows=finished.summary.accepted,
    )


def read_head(card: str) -> str:
    """Returns the beginning of a card: its YAML header and its first paragraphs."""
    _, header, body = card.split("---\n", 2)
    return f"---\n{header}---\n" + "\n".join(body.splitlines()[:HEAD_LINES])
