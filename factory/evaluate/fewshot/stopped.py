"""Test images among those that `budget.stop` looks at: these decide where series end."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from factory.core.errors import SourceError, StoreError
from factory.data.folders import FolderKind
from factory.data.shots import LabelledSet
from factory.data.splits import find_leaks
from factory.engine.dataset import Dataset
from factory.engine.run_folder import RunFolder
from factory.engine.stop_figures import compute_real_digest
from factory.evaluate.fewshot.leaks import TEST_LEAK, Leak
from factory.filters.real.set import RealSet, choose_real_set
from factory.models.session import Session
from factory.recipe.stop import Stop


def find_stop_images(rule: Stop | None, session: Session, test: LabelledSet) -> list[Leak]:
    """Finds test images, and their patients or slides, among those that a recipe's tests look at.

    Raises:
        SourceError: images that cannot be read.
    """
    return [] if rule is None else _compare(choose_real_set(rule, session), test)


def find_run_stops(root: Path, test: LabelledSet) -> tuple[list[Leak], list[str]]:
    """Finds them for a finished run, or a copy of one; nothing for other images.

    The run record holds the digest of what its tests looked at: it is looked for where the recipe
    says, and among the test images themselves. Test images that lie where the recipe says are a
    leak even where these are other images by now, or a copy holds no digest.

    Returns:
        The leaks, and a note where it is not known whether there are any.

    Raises:
        SourceError: damaged records, or images that cannot be decoded.
    """
    run = Dataset(str(root))
    if not run.kind.has_rows or run.recipe is None or run.recipe.budget.stop is None:
        return [], []
    rule, sha256 = run.recipe.budget.stop, _read_digest(run)
    there = list(_read_sets(rule, [base / rule.images.expanduser() for base in _list_bases(root)]))
    for real in (*there, *(_read_sets(rule, [Path(test.root)]) if sha256 else ())):
        if compute_real_digest(rule, real) == sha256:
            return _compare(real, test), []
    leaks = [leak for real in there for leak in _compare(real, test)]
    if leaks:
        return leaks, []
    if sha256 is None:
        why = "no record of a run lies there that tells which these were"
    else:
        why = "they are not there as they were"
    looked = f"the real images that budget.stop looked at ({rule.images})"
    return [], [
        f"{root}: {looked}: {why}, so that it is not known whether test images are among them"
    ]


def _list_bases(root: Path) -> list[Path]:
    """Returns what a relative path of a run's recipe may begin at: its folder is not recorded."""
    return [Path(), root, *root.absolute().parents]


def _read_sets(rule: Stop, places: Iterable[Path]) -> Iterator[RealSet]:
    """Yields what can be read, each place once."""
    session = Session.open()
    for place in dict.fromkeys(each.resolve() for each in places if each.exists()):
        with contextlib.suppress(SourceError):
            yield choose_real_set(rule.model_copy(update={"images": place}), session)


def _read_digest(run: Dataset) -> str | None:
    if run.kind is not FolderKind.RUN:
        return None
    try:
        record = RunFolder(run.url).require_run()
    except StoreError as error:
        raise SourceError(str(error)) from error
    return None if record.stop is None else record.stop.real_sha256


def _compare(real: RealSet, test: LabelledSet) -> list[Leak]:
    shared = find_leaks([image.source for image in real.images], test.images)
    if not shared:
        return []
    text = f"{real.root}, by which budget.stop ends series, and {test.root} share {shared}"
    return [Leak(TEST_LEAK, text)]
