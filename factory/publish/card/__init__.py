"""The dataset card and its companions, made from measurements: README.md, samples, CFF, Croissant.

    write_card(dataset)             # README.md, assets/samples.png, CITATION.cff, ...
    build_documents(dataset, collect_facts(dataset)) -> {name: bytes}, without writing

README.md keeps what a user wrote outside the marked block, and header keys that are not ours.
"""

from factory.publish.card.documents import build_documents, write_card
from factory.publish.card.facts import Facts, collect_facts
from factory.publish.card.grid import draw_sample_grid
from factory.publish.card.header import build_header, choose_size_category
from factory.publish.card.makers import describe_licence
from factory.publish.card.readme import build_card

__all__ = [
    "Facts",
    "build_card",
    "build_documents",
    "build_header",
    "choose_size_category",
    "collect_facts",
    "describe_licence",
    "draw_sample_grid",
    "write_card",
]
