"""All documents of a data set, built and written together."""

from factory.engine.dataset import Dataset
from factory.publish.card.citation import CITATION_FILE, CITATION_MARK, build_cff
from factory.publish.card.croissant import build_croissant
from factory.publish.card.facts import Facts, collect_facts
from factory.publish.card.grid import draw_sample_grid
from factory.publish.card.header import LICENCE_FILE, describe_own_licence
from factory.publish.card.makers import LICENCE_MARK, write_licence_file
from factory.publish.card.prov import NAMESPACE, PROV_FILE, build_prov
from factory.publish.card.readme import build_card

README = "README.md"
SAMPLES = "assets/samples.png"
MARKS = {LICENCE_FILE: LICENCE_MARK, CITATION_FILE: CITATION_MARK, PROV_FILE: NAMESPACE}
"""Document -> text by which it is known to be factory's; without it, it is a user's own."""


def write_card(dataset: Dataset, url: str | None = None, with_prov: bool = False) -> None:
    """Writes the documents of a finalized run folder; what a user wrote in README.md stays.

    With `with_prov`, prov.json too. Documents of before that no longer hold are removed; LICENSE.md
    and CITATION.cff of a user's own are neither changed nor removed.

    Raises:
        StoreError: the data cannot be read or a document not be written.
        InputError: an evaluation result that is no JSON object, or `prov` is not installed.
    """
    facts = collect_facts(dataset, url)
    documents = build_documents(dataset, facts)
    if with_prov:
        documents[PROV_FILE] = build_prov(facts).encode()
    for name in (LICENCE_FILE, PROV_FILE):
        if name not in documents and _is_ours(dataset, name):
            dataset.files.remove(name)
    for name in sorted(documents, key=lambda name: name == README):  # the card last
        dataset.files.write(name, documents[name])


def build_documents(dataset: Dataset, facts: Facts) -> dict[str, bytes]:
    """Returns name -> bytes of README.md, samples, CITATION.cff, croissant.json and LICENSE.md.

    LICENSE.md is there where the licence is `other` and the recipe links to no text of its own.

    Args:
        dataset: a finalized run.
        facts: what `collect_facts` read of it.

    Raises:
        StoreError: the data cannot be read.
        InputError: the header of README.md cannot be read.
    """
    grid = draw_sample_grid(dataset)
    before = dataset.files.read(README).decode() if dataset.files.exists(README) else None
    documents = {
        README: build_card(facts, grid is not None, before).encode(),
        CITATION_FILE: build_cff(facts).encode(),
        "croissant.json": build_croissant(facts).encode(),
    }
    if grid is not None:
        documents[SAMPLES] = grid
    if describe_own_licence(facts).get("license_link") == LICENCE_FILE:
        documents[LICENCE_FILE] = write_licence_file(facts).encode()
    kept = [name for name in MARKS if name in documents and not _is_ours(dataset, name)]
    return {name: data for name, data in documents.items() if name not in kept}


def _is_ours(dataset: Dataset, name: str) -> bool:
    """Whether a document is not there, or was written here and not replaced by a user's own."""
    return not dataset.files.exists(name) or MARKS[name] in dataset.files.read(name).decode()
