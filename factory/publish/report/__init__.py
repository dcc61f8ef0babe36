"""One self-contained HTML file on a run: funnel, galleries, scores, copies, acceptance."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from factory.core.fields import Folder, ImageColumn, Images, Option, Options

if TYPE_CHECKING:
    from factory.publish.report.comparisons import Comparer, Comparison
    from factory.publish.report.galleries import Choice
    from factory.publish.report.state import RunState

NAME = "report.html"


class ReportOptions(Options):
    """What a report shows."""

    per_gallery: int = Field(24, ge=1, le=500, description="Images in each gallery, at most.")
    base: Folder = Field(
        Path(),
        description="Folder of the recipe, where its relative paths to real images start.",
    )
    real: tuple[Images, ...] = Field(
        (), description="Further real images to put beside accepted ones; may be given again."
    )
    image_column: ImageColumn = None
    with_real: Annotated[bool, Option(is_hidden=True)] = Field(
        True, description="Show real images."
    )


def build_report(
    url: str,
    options: ReportOptions | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Any], str]:
    """Builds the report on a run folder, finished or not.

    What counts is what is committed; nothing is written. Images are read for what is shown only.

    Args:
        url: run folder of `factory run` or `factory judge`, or its fsspec URL.
        options: what to show.
        say: called with one line at the start of each step.

    Returns:
        The numbers as plain data, and the HTML text.

    Raises:
        MismatchError: not a run folder.
        StoreError: damaged data.
        InputError: an evaluation result that is no JSON object.
        SourceError: a stored image cannot be read.
    """
    from factory.engine.dataset import Dataset
    from factory.publish.report.collect import collect
    from factory.publish.report.comparisons import Comparer
    from factory.publish.report.evaluations import show_evaluations
    from factory.publish.report.galleries import build_galleries, choose, fetch_chosen
    from factory.publish.report.numbers import build_numbers
    from factory.publish.report.page import render_page
    from factory.publish.report.state import read_state
    from factory.publish.report.tiles import Maker
    from factory.recipe.recipe import is_judging

    options = options or ReportOptions()
    state = read_state(url, options.base, say)
    limits = state.list_limits()
    say("collecting scores")
    found = collect(state, limits, options.per_gallery)
    choice = choose(found)
    say("reading images")
    stored = fetch_chosen(state, choice, options.with_real)
    maker = Maker(state.labels, limits, stored, not is_judging(state.recipe))
    comparer = Comparer(state, maker, stored, options.base, options.per_gallery)
    comparisons = list(_compare(comparer, state, choice, options, say)) if options.with_real else []
    numbers = build_numbers(state, found, limits, choice, comparisons)
    galleries = build_galleries(choice, maker)
    evaluations = show_evaluations(Dataset(state.folder.url), options.with_real)
    return numbers, render_page(state, numbers, limits, galleries, comparisons, evaluations)


def _compare(
    comparer: "Comparer",
    state: "RunState",
    choice: "Choice",
    options: ReportOptions,
    say: Callable[[str], None],
) -> Iterator["Comparison"]:
    """Yields what is shown beside real images: references, whole sets, neighbours by realism."""
    from factory.publish.report.real_images import find_judge, list_real_sets

    if choice.references:
        say("comparing with references")
        yield comparer.compare_references(choice.references)
    for real in list_real_sets(state, options.real, options.image_column):
        say(f"comparing with {real.path}")
        yield comparer.compare_set(real, choice.described)
    judge = find_judge(state)
    if judge is not None:
        say(f"comparing by {judge.name}")
        yield comparer.compare_by_features(judge, choice.unauthentic)


def write_report(url: str, html: str, out: str | None = None) -> str:
    """Writes the HTML text, by default as `report.html` into the run folder.

    Args:
        url: run folder.
        html: as `build_report` gives it.
        out: another file, or an fsspec URL of one.

    Returns:
        Where it is.

    Raises:
        StoreError: it cannot be written.
    """
    from factory.core.files.store import FileStore

    place = out or f"{url.rstrip('/')}/{NAME}"
    folder, _, name = place.rpartition("/")
    root = folder if "://" in place else str(Path(place).absolute().parent)
    FileStore(root).write(name, html.encode())
    return place
