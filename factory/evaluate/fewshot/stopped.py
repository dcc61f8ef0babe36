"""Test images among those that `budget.stop` looks at: these decide where series end."""

from pathlib import Path

from factory.core.errors import SourceError, StoreError
from factory.data.folders import FolderKind
from factory.data.shots import ImageSet
from factory.data.splits import find_leaks
from factory.engine.dataset import Dataset
from factory.engine.run_folder import RunFolder
from factory.engine.stop_figures import compute_real_digest
from factory.evaluate.fewshot.leaks import TEST_LEAK, Leak
from factory.filters.real.set import RealSet, choose_real_set
from factory.models.session import Session
from factory.recipe.stop import Stop


def find_stop_images(rule: Stop | None, session: Session, test: ImageSet) -> list[Leak]:
    """Finds test images, and their patients or slides, among those that a recipe's tests look at.

    Raises:
        SourceError: images that cannot be read.
    """
    return [] if rule is None else _compare(choose_real_set(rule, session), test)


def find_run_stops(root: Path, test: ImageSet) -> tuple[list[Leak], list[str]]:
    """Finds them for a finished run, or a copy of one; nothing for other images.

    The run record holds the digest of what its tests looked at: it is looked for where the recipe
    says, and among the test images themselves.

    Returns:
        The leaks, and a note where it is not there any more.

    Raises:
        SourceError: damaged records, or images that cannot be decoded.
    """
    run = Dataset(str(root))
    if not run.kind.has_rows or run.recipe is None or run.recipe.budget.stop is None:
        return [], []
    rule, sha256 = run.recipe.budget.stop, _read_digest(run)
    for path in (rule.images, Path(test.root)) if sha256 else ():
        here = rule.model_copy(update={"images": path})
        try:
            real = choose_real_set(here, Session.open())
        except SourceError:
            continue
        if compute_real_digest(here, real) == sha256:
            return _compare(real, test), []
    why = f"{root}: the real images that budget.stop looked at ({rule.images}) are not there as"
    return [], [f"{why} they were, so that it is not known whether test images are among them"]


def _read_digest(run: Dataset) -> str | None:
    if run.kind is not FolderKind.RUN:
        return None
    try:
        record = RunFolder(run.url).require_run()
    except StoreError as error:
        raise SourceError(str(error)) from error
    return None if record.stop is None else record.stop.real_sha256


def _compare(real: RealSet, test: ImageSet) -> list[Leak]:
    shared = find_leaks([image.source for image in real.images], test.images)
    if not shared:
        return []
    text = f"{real.root}, by which budget.stop ends series, and {test.root} share {shared}"
    return [Leak(TEST_LEAK, text)]
