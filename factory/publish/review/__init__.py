"""Pages where people look at the images of a run: review, reader studies, and how far a run is."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.data.review.answers import Reading
from factory.data.review.store import ReviewStore
from factory.engine.dataset import Dataset
from factory.publish.review.desk import Desk


class ServeOptions(fields.Options):
    """Where pages are served."""

    port: int = Field(0, ge=0, le=65_535, description="0: one that is free.")
    host: str = Field(
        "127.0.0.1",
        description="Address to listen at; any but this machine's own lets others in, who have "
        "the link, without encryption: an SSH tunnel is safer.",
    )


class ReviewOptions(fields.Options):
    """What people are shown."""

    study: Literal["turing", "label", "pair"] | None = Field(
        None,
        description="Blinded study: real or synthetic, which class, or which of two is better; "
        "default: accept or reject each image.",
    )
    count: fields.Count | None = Field(
        None, description="Images, or pairs of them; default: all of a review, 60 of a study."
    )
    real: fields.Images | None = Field(None, description="Real images of a study.")
    against: fields.Images | None = Field(
        None, description="The other set of --study pair: a run, or real images."
    )
    image_column: fields.ImageColumn = None
    blind: bool = Field(False, description="Do not show the class asked for; studies never do.")
    size: Annotated[fields.Pixels | None, fields.Option()] = Field(
        None, description="px of all images of a study; default: the smallest side."
    )
    fit: fields.Fitted = "crop"
    seed: fields.Chance = 0


_OF_STUDIES = ("real", "against", "image_column", "size")


def open_desk(
    url: str, options: ReviewOptions, say: Callable[[str], None] = lambda line: None
) -> Desk:
    """Opens what people look at: draws it, or goes on with what was drawn.

    Args:
        url: folder of a finished run, or of a copy of one, on this machine.
        options: what to show.
        say: called with one line at the start of each step.

    Raises:
        InputError: no such folder, one elsewhere, or options that do not fit.
        StoreError: damaged data, or answers cannot be kept there.
    """
    from factory.engine.dataset import open_dataset

    if "://" in url or not Path(url).is_dir():
        raise InputError(
            f"{url}: answers are kept beside the images, in a folder on this machine: fetch the "
            "run first (factory publish URL --to DIR)"
        )
    dataset, store = open_dataset(url), ReviewStore(Path(url))
    if options.study is None:
        return _open_review(dataset, store, options)
    return _open_study(dataset, store, options, say)


def _open_review(dataset: Dataset, store: ReviewStore, options: ReviewOptions) -> Desk:
    from factory.publish.review.drawing import draw_review

    if any(getattr(options, name) is not None for name in _OF_STUDIES):
        raise InputError("--real, --against, --image-column and --size: only with --study")
    reading, cases = draw_review(dataset, options.count, options.seed, options.blind)
    _refuse_other(store, reading)
    store.add_reading(reading, cases)
    # all that was ever shown, so that each reader sees what others rejected, too
    return Desk(store, reading, dataset, None if options.count is None else cases)


def _open_study(
    dataset: Dataset, store: ReviewStore, options: ReviewOptions, say: Callable[[str], None]
) -> Desk:
    from factory.publish.review.drawing import STUDY_COUNT, Draw, draw_study, find_run

    assert options.study is not None
    given = {name: getattr(options, name) for name in ("seed", *_OF_STUDIES, "fit")}
    draw = Draw(options.study, options.count or STUDY_COUNT, **given)
    name = draw.name_reading(find_run(dataset))
    known = {each.id: each for each in store.list_readings()}
    if name in known:
        return Desk(store, known[name], dataset)
    say("drawing images")
    studies = [each.id for each in known.values() if each.asks.is_study]
    shown = {i.key for each in studies for case in store.list_cases(each) for i in case.images}
    reading, cases, pictures = draw_study(dataset, draw, frozenset(shown))
    _refuse_other(store, reading)
    store.add_reading(reading, cases, pictures)
    return Desk(store, reading, dataset)


def _refuse_other(store: ReviewStore, reading: Reading) -> None:
    """Refuses to mix answers on two runs.

    Raises:
        InputError: the folder holds answers on another run.
    """
    others = {each.run for each in store.list_readings()} - {reading.run}
    if others:
        raise InputError(f"{store.path}: holds answers on another run: move it away to begin anew")
