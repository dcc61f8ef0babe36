"""Every evaluation that the data allow, one after the other, and one table of four tiers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.api.evaluating import (
    evaluate_control,
    evaluate_copies,
    evaluate_fewshot,
    evaluate_fidelity,
    evaluate_retrieval,
)
from factory.api.sharing import card
from factory.api.words import Say, keep_quiet
from factory.core.errors import EvaluationError, InputError
from factory.evaluate import DEFAULT_ENCODER

if TYPE_CHECKING:
    from factory.evaluate.fewshot.settings import StudySettings
    from factory.evaluate.image_sets import Fit
    from factory.publish.evaluation import Evaluation

Tell = Callable[[str, "Evaluation | Exception | None"], None]
"""Called with a part and None before it is measured, then with its result or why it has none."""


@dataclass(frozen=True, slots=True)
class AllSettings:
    """What is measured, and how.

    Attributes:
        real: real training images.
        test: real images that no training used.
        synthetic: finished run, or any image set.
        out: folder for results; None: `evaluation` in `synthetic`, where the card finds them.
        encoder: of fidelity and copies.
        shots: of each class, in the few-shot study.
        seeds: draws of shots.
        steps: of every arm of the few-shot study.
        fewshot_encoder: frozen encoder and linear head, instead of ResNet-18.
        pairs: held-out image-caption pairs; None: no retrieval.
        clip: image-text model of retrieval.
        pretrained: tag of its weights.
        grid: caption grid of control.
        image_column: of real images.
        group_pattern: regular expression on real file names, whose (group) is the patient.
        fit: `crop` keeps the scale, `resize` the content.
        size: px of all images.
        skip: parts to leave out.
        force: go on with leaks and small sets, and mark them.
        catalogs: further catalog folders.
    """

    real: Path
    test: Path
    synthetic: Path
    out: Path | None = None
    encoder: str = DEFAULT_ENCODER
    shots: int = 10
    seeds: int = 5
    steps: int | None = None
    fewshot_encoder: str | None = None
    pairs: Path | None = None
    clip: str = "tiny"
    pretrained: str | None = None
    grid: str = "he-attributes"
    image_column: str | None = None
    group_pattern: str | None = None
    fit: "Fit" = "crop"
    size: int = 64
    skip: tuple[str, ...] = ()
    force: bool = False
    catalogs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("real", "test", "synthetic", "out", "pairs"):
            place = getattr(self, name)
            object.__setattr__(self, name, None if place is None else Path(place))

    @property
    def folder(self) -> Path:
        """Folder for results."""
        from factory.evaluate.measured import EVALUATION

        return self.out or self.synthetic / EVALUATION

    @property
    def has_card(self) -> bool:
        """Whether the results land in a finished run, whose card shows them."""
        from factory.evaluate.measured import EVALUATION

        is_run = (self.synthetic / "summary.json").is_file()
        return is_run and self.folder == self.synthetic / EVALUATION

    def list_parts(self) -> tuple[str, ...]:
        """Returns what is measured, in order."""
        from factory.evaluate.results import PARTS

        left = {*self.skip, *(() if self.pairs is not None else ("retrieval",))}
        return tuple(part for part in PARTS if part not in left)


def evaluate_all(
    settings: AllSettings, tell: Tell = lambda part, found: None, say: Say = keep_quiet
) -> "Evaluation":
    """Runs every evaluation that the data allow, and fills one table of four tiers.

    Each part's result lies in the folder as JSON. A part that cannot be measured is named with its
    reason, and the others go on. The same call resumes the long parts. A run's card is written.

    Args:
        settings: what is measured, and how.
        tell: called before and after each part.
        say: called with one line at the start of each step.

    Returns:
        `tiers`, and `not_measured`: part -> reason.

    Raises:
        StoreError: results cannot be written.
    """
    from factory.core.files.atomic import write_file
    from factory.core.plain import write_json
    from factory.evaluate.results import PARTS, build_tiers
    from factory.publish.evaluation import Evaluation

    results: dict[str, Mapping[str, Any]] = {}
    missing: dict[str, str] = {}
    wanted = settings.list_parts()
    for part in PARTS:
        if part not in wanted:
            missing[part] = "left out by --skip" if part in settings.skip else "needs --pairs"
            continue
        tell(part, None)
        try:
            found = _measure(part, settings, say)
        except (EvaluationError, InputError) as error:
            missing[part] = _shorten(str(error), (settings.synthetic, settings.real, settings.test))
            tell(part, error)
            continue
        results[part] = found
        tell(part, found)
    named = {"real": str(settings.real), "test": str(settings.test)}
    table = build_tiers(results, missing, named)
    write_file(settings.folder / "tiers.json", write_json(table).encode())
    if settings.has_card:
        card(settings.synthetic)
    return Evaluation(table)


def _measure(part: str, settings: AllSettings, say: Say) -> "Evaluation":
    measures = {
        "fidelity": _measure_fidelity,
        "copies": _measure_copies,
        "fewshot": _measure_fewshot,
        "retrieval": _measure_retrieval,
        "control": _measure_control,
    }
    return measures[part](settings, settings.folder / f"{part}.json", say)


def _list_usual(settings: AllSettings) -> dict[str, Any]:
    """Returns size, fit and columns."""
    named = ("size", "fit", "image_column", "group_pattern")
    return {name: getattr(settings, name) for name in named}


def _measure_fidelity(settings: AllSettings, out: Path, say: Say) -> "Evaluation":
    from factory.evaluate.fidelity import FidelitySettings

    chosen = FidelitySettings(
        encoders=(settings.encoder,),
        force=settings.force,
        cache=settings.folder / "features",
        **_list_usual(settings),
    )
    return evaluate_fidelity(settings.test, [settings.synthetic], chosen, out, say)


def _measure_copies(settings: AllSettings, out: Path, say: Say) -> "Evaluation":
    from factory.evaluate.copies.study import CopySettings

    cache = settings.folder / "features"
    chosen = CopySettings(encoder=settings.encoder, cache=cache, **_list_usual(settings))
    sets = (settings.real, settings.synthetic, settings.test)
    return evaluate_copies(*sets, chosen, out, settings.folder / "copies.png", say)


def _measure_fewshot(settings: AllSettings, out: Path, say: Say) -> "Evaluation":
    from factory.evaluate.fewshot.run import FewshotSources

    sources = FewshotSources(
        settings.real,
        settings.test,
        (settings.synthetic,),
        image_column=settings.image_column,
        group_pattern=settings.group_pattern,
        catalogs=settings.catalogs,
    )
    return evaluate_fewshot(sources, build_study(settings), settings.folder / "fewshot", out, say)


def build_study(settings: AllSettings) -> "StudySettings":
    """Returns the settings of the few-shot study."""
    from factory.evaluate.fewshot.settings import StudySettings

    return StudySettings(
        shots=(settings.shots,),
        seeds=settings.seeds,
        steps=settings.steps,
        encoder=settings.fewshot_encoder,
        size=settings.size,
        fit=settings.fit,
        force=settings.force,
        mark_leaks=True,
    )


def _measure_retrieval(settings: AllSettings, out: Path, say: Say) -> "Evaluation":
    from factory.evaluate.retrieval.pairs import Columns
    from factory.evaluate.retrieval.settings import RetrievalSettings
    from factory.evaluate.retrieval.study import RetrievalOptions
    from factory.evaluate.workers import count_workers

    chosen = RetrievalSettings(model=settings.clip, pretrained=settings.pretrained)
    options = RetrievalOptions(
        columns=Columns(image=settings.image_column),
        out=settings.folder / "retrieval",
        workers=count_workers(None, chosen.device),
    )
    if settings.pairs is None:
        raise InputError("retrieval: needs --pairs")
    return evaluate_retrieval(settings.synthetic, settings.pairs, chosen, options, out, say)


def _measure_control(settings: AllSettings, out: Path, say: Say) -> "Evaluation":
    return evaluate_control(
        settings.synthetic,
        settings.grid,
        settings.size,
        settings.fit,
        catalogs=settings.catalogs,
        out=out,
        say=say,
    )


def _shorten(text: str, paths: Sequence[Path]) -> str:
    """Returns a text without the folders above the sets: results are published."""
    for path in paths:
        for form in (str(path.absolute()), str(path)):
            text = text.replace(form, path.name)
    return text
