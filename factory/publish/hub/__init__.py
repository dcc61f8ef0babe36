"""Publishes a finished run: checked, licensed, sent step by step, resumed, compared, tagged.

publication = prepare_publication(folder)
target = HubTarget(HubOptions("owner/name"), say)         # or FolderTarget("s3://...", say)
publish_items(publication.items, target, publication.recipe_sha256, say)
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from factory.core.errors import InputError
from factory.core.fields import Option, Options
from factory.engine.dataset import Dataset
from factory.publish.hub.documents import build_documents
from factory.publish.hub.fetched import fetch_run
from factory.publish.hub.finished import require_whole
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
from factory.publish.hub.target import Say, Target

__all__ = [
    "FolderTarget",
    "Item",
    "Publication",
    "PublishOptions",
    "Published",
    "fetch_run",
    "prepare_publication",
    "publish_items",
    "publish_run",
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
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give a finished run on this machine")
    dataset = Dataset(str(folder))
    summary = require_whole(dataset)
    data = list_data(folder, summary.hashes, with_tars)
    documents = build_documents(dataset, data, license_id, override, url)
    items = (*data, *list_documents(documents))
    if url is not None:
        check_folders(items, str(folder))
    return Publication(
        items=items,
        card=documents[CARD].decode(),
        recipe_sha256=summary.recipe_sha256,
        digest=compute_content_digest(items),
        rows=summary.accepted,
    )


class PublishOptions(Options):
    """Where a run is published, for whom, and under which licence."""

    repo: Annotated[str | None, Option(metavar="OWNER/NAME")] = Field(
        None, description="Data set repository on the Hub."
    )
    to: Annotated[
        str | None,
        BeforeValidator(lambda place: place and os.fspath(place)),
        Option(takes="folder or URL", metavar="URL"),
    ] = Field(None, description="Folder or fsspec URL (s3://...) instead of the Hub.")
    dry_run: bool = Field(False, description="Show files and card; touch nothing, ask nobody.")
    public: bool = Field(False, description="For everybody; default: a private repository.")
    gated: Literal["auto", "manual"] | None = Field(None, description="Readers must ask first.")
    license_id: Annotated[str | None, Option("--license", metavar="ID")] = Field(
        None, description="Licence; default: the card's."
    )
    override: Annotated[str | None, Option("--override-terms", metavar="TEXT")] = Field(
        None,
        description="Who approved what a model's terms forbid, and when; the card shows it.",
    )
    branch: Annotated[str, Option("--revision")] = Field("main", description="Branch to write to.")
    tag: str | None = Field(
        None, description="Name of the version; default: made of the content's hash."
    )
    with_tars: bool = Field(False, description="Publish WebDataset tars too.")
    replace: bool = Field(False, description="Take the place of other data that is there.")
    files_per_step: int = Field(20, ge=1, le=100, description="Files of one commit, at most.")


def publish_run(
    folder: str, options: PublishOptions, say: Say
) -> tuple[Publication, Published | None]:
    """Checks a finished run, sends what is not there yet, and compares; the same call goes on.

    Returns:
        What is published, and what was done; None for the latter with `dry_run`.

    Raises:
        InputError: neither or both of `repo` and `to`, not finished, or the licence is refused.
        StoreError: damaged data.
        PublishError: it broke off.
    """
    if (options.repo is None) == (options.to is None):
        raise InputError("give either --repo OWNER/NAME or --to URL")
    url = None
    if options.repo is not None:
        from huggingface_hub import constants

        url = f"{constants.ENDPOINT}/datasets/{options.repo}"
    with fetch_run(folder, say) as place:
        say(f"checking {folder}")
        chosen = options.license_id, options.override, options.with_tars
        publication = prepare_publication(place, *chosen, url)
        if options.dry_run:
            return publication, None
        target = _open_target(publication, options, say)
        rules = options.files_per_step, options.replace
        sent = (publication.items, target, publication.recipe_sha256, say)
        return publication, publish_items(*sent, *rules)


def _open_target(publication: Publication, options: PublishOptions, say: Say) -> Target:
    if options.repo is None:
        return FolderTarget(str(options.to), say)
    from factory.publish.hub.hub import HubOptions, HubTarget

    where = HubOptions(
        repo=options.repo,
        public=options.public,
        gated=options.gated,
        branch=options.branch,
        tag=options.tag or f"factory-{publication.digest[:12]}",
        description=f"recipe sha256 {publication.recipe_sha256}\n{publication.rows} accepted rows",
    )
    return HubTarget(where, say)


def read_head(card: str) -> str:
    """Returns the beginning of a card: its YAML header and its first paragraphs."""
    _, header, body = card.split("---\n", 2)
    return f"---\n{header}---\n" + "\n".join(body.splitlines()[:HEAD_LINES])
