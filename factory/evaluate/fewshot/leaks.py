"""Leaks of a study: test images, labels beyond the shots, and shots of other draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.catalog.catalog import Catalogs, ModelEntry
from factory.catalog.entries import EncoderEntry
from factory.core.errors import DamageError, InputError, MismatchError
from factory.core.hashing import compute_digest, hash_bytes
from factory.core.thumbnails import DIM, compare_all, describe_images
from factory.data.groups import hash_group
from factory.data.shots import LabelledSet
from factory.data.splits import find_leaks
from factory.evaluate.fewshot.synthetic import Origin, SyntheticSet
from factory.evaluate.judge_overlap import find_parts, read_making, write_circle
from factory.filters import list_labels
from factory.filters.base import Labels
from factory.models.classifiers.model import read_classifier_info
from factory.models.session import Session
from factory.recipe.conditions import ConditionKind
from factory.recipe.conditions.family_looks import list_domains
from factory.recipe.judge_overlap import GUIDE
from factory.train.adapter.shots import AdaptationRecord, Shot, digest_shots

TEST_LEAK, LABELS_SEEN, OTHER_SHOTS = "TEST LEAK", "LABELS SEEN", "OTHER SHOTS"
CIRCULAR = "CIRCULAR"
"""Of an encoder that had a part in the images it evaluates: marked, not refused."""
NEAR_COPY = 0.95
"""Similarity from which `training_copy` rejects, by default."""
_FEATURELESS = 0.8
"""Share of a descriptor that is its constant floor, as in `factory.train.copies`."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One leak: its mark in the tables, and what it is.

    Attributes:
        mark: of TEST_LEAK, LABELS_SEEN, OTHER_SHOTS, CIRCULAR.
        text: what leaks, and what to do.
        synthetic: whether it comes with the synthetic images, and so reaches their arms alone.
        unfiltered: whether it reaches images that no filter chose, too.
    """

    mark: str
    text: str
    synthetic: bool = True
    unfiltered: bool = True

    def reaches(self, arm: str) -> bool:
        """Tells whether an arm's figures are touched."""
        if not self.synthetic:
            return True
        return "synthetic" in arm and (self.unfiltered or not arm.endswith("unfiltered"))

    def __str__(self) -> str:
        return f"{self.mark}: {self.text}"


class LeakError(InputError):
    """A study that would be no honest comparison."""

    def __init__(self, leaks: Sequence[Leak]) -> None:
        self.leaks = tuple(dict.fromkeys(leaks))
        listed = "\n".join(dict.fromkeys(str(leak) for leak in leaks))
        super().__init__(
            f"{listed}\nThis would be no honest comparison: remove what leaks, or add --force and "
            "have every table marked"
        )


def refuse_leaks(leaks: Sequence[Leak], force: bool, mark: bool = False) -> None:
    """Refuses to go on with leaks, unless forced, or marked where no test image leaks.

    Raises:
        LeakError: lists all of them.
    """
    refused = [leak for leak in leaks if not mark or leak.mark == TEST_LEAK]
    if refused and not force:
        raise LeakError(refused)


def mark_arms(leaks: Sequence[Leak], arms: Sequence[str]) -> dict[str, list[str]]:
    """Returns arm -> marks of the leaks and circles that reach it."""
    found = {
        arm: list(dict.fromkeys(leak.mark for leak in leaks if leak.reaches(arm))) for arm in arms
    }
    return {arm: marks for arm, marks in found.items() if marks}


def find_test_leaks(train: LabelledSet, test: LabelledSet) -> list[Leak]:
    """Finds images and patients or slides that lie on both sides."""
    found = find_leaks(train.images, test.images)
    if not found:
        return []
    text = f"{train.root} and {test.root} share {found}"
    return [Leak(TEST_LEAK, text, synthetic=False)]


def find_test_images(synthetic: SyntheticSet, test: LabelledSet) -> list[Leak]:
    """Finds test images, by their pixels, among the synthetic ones."""
    shared = set(synthetic.images.pixels_sha256s) & set(test.pixels_sha256s)
    if not shared:
        return []
    text = f"{len(shared)} images of {synthetic.images.root} are test images of {test.root}"
    return [Leak(TEST_LEAK, text)]


def find_unlabelled(block: ConditionKind, session: Session, test: LabelledSet) -> list[Leak]:
    """Finds test images, and their patients or slides, among those whose classes are not read.

    Raises:
        SourceError: images that cannot be read.
    """
    found = []
    for images in (*block.unlabelled, *list_domains(block)):
        shared = find_leaks(images.list(session), test.images)
        if shared:
            text = f"{session.resolve(images.path)}, which a recipe reads without classes, and "
            found.append(Leak(TEST_LEAK, f"{text}{test.root} share {shared}"))
    return found


def find_test_sources(synthetic: SyntheticSet, test: LabelledSet) -> list[Leak]:
    """Finds test images, and their patients or slides, among those that rows were made of."""
    groups = {each for each in map(hash_group, (one.group for one in test.images)) if each}
    files, pixels = set(test.sha256s), set(test.pixels_sha256s)
    images = [name for name in synthetic.sources if name in files or name in pixels]
    people = synthetic.groups & groups
    if not images and not people:
        return []
    text = f"{len(images)} images and {len(people)} patients or slides of {test.root}"
    return [Leak(TEST_LEAK, f"{synthetic.images.root} was made of {text}")]


def find_other_shots(synthetic: SyntheticSet, shots: LabelledSet, draw: str) -> list[Leak]:
    """Finds synthetic images that vary real images which are no shots of the draw."""
    varied = [each for each in synthetic.references if each is not None]
    files, pixels = set(shots.sha256s), set(shots.pixels_sha256s if varied else ())
    foreign = [
        each for each in varied if not all(one.is_among(files, pixels) for one in each.labelled)
    ]
    if not foreign:
        return []
    text = (
        f"{len(foreign)} of {len(synthetic.references)} images of {synthetic.images.root} vary "
        f"real images that are no shots of {draw}: give the run of those shots (recipe: shots and "
        "seed of the draw), or let --generator make one for each draw"
    )
    return [Leak(OTHER_SHOTS, text)]


def find_label_leaks(
    origin: Origin, shots: LabelledSet, catalogs: Catalogs, set_name: str | None
) -> tuple[list[Leak], list[str]]:
    """Finds models and filters that may have seen labels of the evaluated set beyond the shots.

    Returns:
        The leaks, and notes on what is not known.
    """
    leaks: list[Leak] = []
    notes: list[str] = []
    if not origin.is_run:
        return [], ["nothing is known of what made the synthetic images: no run"]
    for model in origin.models:
        found, told = find_model_leaks(model, catalogs, set_name, shots)
        leaks += found
        notes += told
        if model in origin.adapted:
            leaks += find_adapter_leaks(model, catalogs)
    for described in origin.filters:
        leaks += find_filter_leaks(described, shots, catalogs)
    return leaks, notes


def find_model_leaks(
    model: str, catalogs: Catalogs, set_name: str | None, shots: LabelledSet | None = None
) -> tuple[list[Leak], list[str]]:
    """Reads in the catalog whether a generative model has seen labels of the evaluated set.

    With `set_name`, labels of other sets do not matter, and a model of which it is not known counts
    as one that has seen them where its training data names the set. One that `train adapter`
    adapted to exactly the shots is judged by its base.
    """
    entry = catalogs.get_model(model)
    if entry is not None and entry.base is not None and _is_adapted_to(entry, shots):
        return find_model_leaks(entry.base, catalogs, set_name, shots)
    return _judge_entry(f"model {model}", entry, set_name, True)


def _is_adapted_to(entry: ModelEntry, shots: LabelledSet | None) -> bool:
    """Whether the record of an adaptation, beside its weights, names exactly the shots."""
    if shots is None or not entry.adapters:
        return False
    path = Path(entry.adapters[-1].source) / "training" / "settings.json"
    pairs = zip(shots.images, shots.sha256s, strict=True)
    chosen = [
        Shot(image, str(image.class_name), sha, image.group and hash_bytes(image.group.encode()))
        for image, sha in pairs
    ]
    try:
        told = AdaptationRecord.parse(path.read_bytes())
    except (OSError, DamageError, MismatchError):
        return False
    return told.chosen == digest_shots(chosen)


def find_adapter_leaks(model: str, catalogs: Catalogs) -> list[Leak]:
    """Finds adapters of which no catalog entry tells what they were trained on."""
    entry = catalogs.get_model(model)
    if entry is not None and entry.adapters:
        return []
    text = (
        f"model {model} was used with an adapter, and no catalog entry tells what that was "
        "trained on: name its catalog (--catalog), or let --generator with --adapt train one on "
        "each draw's shots"
    )
    return [Leak(LABELS_SEEN, text)]


def find_encoder_leaks(
    spec: str, catalogs: Catalogs, set_name: str | None
) -> tuple[list[Leak], list[str]]:
    """Reads in the catalog whether the encoder that evaluates has seen labels; it reaches all."""
    return _judge_entry(f"encoder {spec}", catalogs.get_encoder(spec), set_name, False)


def _judge_entry(
    name: str, entry: ModelEntry | EncoderEntry | None, set_name: str | None, synthetic: bool
) -> tuple[list[Leak], list[str]]:
    if entry is None:
        return [], [f"{name}: no catalog entry, so what it was trained on is not known"]
    if entry.labels_seen is False:
        return [], []
    is_named = set_name is not None and any(
        _simplify(set_name) in _simplify(line) for line in entry.training_data
    )
    seen = "has seen labels" if entry.labels_seen else "may have seen labels"
    if is_named or (entry.labels_seen and set_name is None):
        data = "; ".join(entry.training_data) or "training data not told"
        hint = "" if set_name else " (--set-name tells whether they are of the evaluated set)"
        return [Leak(LABELS_SEEN, f"{name} {seen} beyond the shots: {data}{hint}", synthetic)], []
    if entry.labels_seen:
        data = "; ".join(entry.training_data) or "training data not told"
        return [], [f"{name} has seen labels, but none of its sets is named {set_name}: {data}"]
    if set_name is None:
        return [], [f"{name}: its catalog entry does not tell whether it saw labels"]
    return [], []


def _simplify(text: str) -> str:
    return "".join(each for each in text.lower() if each.isalnum())


def find_filter_leaks(
    described: Mapping[str, Any], shots: LabelledSet, catalogs: Catalogs
) -> list[Leak]:
    """Finds filters fitted on labelled images other than exactly the shots.

    Args:
        described: a filter's settings, or its description by a run.
        shots: of the draw.
        catalogs: where classifiers are looked up.
    """
    is_guide = described["kind"] == GUIDE
    who = GUIDE if is_guide else f"filter {described['kind']}"
    learned = [Labels(described["model"])] if is_guide else list_labels(described)
    texts = (_find_foreign(labels, shots, catalogs) for labels in learned)
    return [Leak(LABELS_SEEN, f"{who} {text}", unfiltered=is_guide) for text in texts if text]


def _find_foreign(labels: Labels, shots: LabelledSet, catalogs: Catalogs) -> str:
    """Says which labels other than those of the shots were learned from; empty where none."""
    if labels.classifier is None:
        pairs = zip(shots.sha256s, shots.images, strict=True)
        named = sorted([sha, each.class_name] for sha, each in pairs)
        is_own = labels.digest == compute_digest("real images", named)
        return "" if is_own else f"compares with classes of {labels.images}, not of the shots"
    told = _read_fitted(labels.classifier, catalogs)
    if told is not None and told[0] == shots.digest:
        return ""
    on = "images that are not known" if told is None else f"{told[1]} labelled images"
    return f"({labels.classifier}) was fitted on {on}, not on the shots alone"


def _read_fitted(model: str, catalogs: Catalogs) -> tuple[str, int] | None:
    """Returns the identity and number of the images that a classifier was fitted on."""
    folder = catalogs.find_classifier_folder(model) or Path(model).expanduser()
    try:
        data = read_classifier_info(folder).data
    except InputError:
        return None
    return data.sha256, data.images


def find_circular(
    spec: str, described: Mapping[str, Any], roots: Sequence[Path], catalogs: Catalogs
) -> list[Leak]:
    """Finds runs in which the encoder that evaluates filtered, taught or conditioned.

    Args:
        spec: the encoder as the user named it.
        described: what it says of itself.
        roots: of the synthetic images; nothing is known of those that are no runs.
        catalogs: where ids are looked up.
    """
    found = []
    for root in roots:
        for part in find_parts(spec, described, read_making(root, catalogs), catalogs):
            text = write_circle(spec, "the synthetic images", part).removeprefix(f"{CIRCULAR}: ")
            judges = ("filter", "pick", "stop")
            found.append(Leak(CIRCULAR, text, unfiltered=not part.startswith(judges)))
    return found


def count_near_copies(
    synthetic: NDArray[np.uint8], test: NDArray[np.uint8]
) -> dict[str, float | int]:
    """Compares synthetic images with the test images over flips, turns and recolourings.

    Args:
        synthetic: (N, S, S, 3) uint8 RGB, at least one.
        test: (M, S, S, 3) uint8 RGB, at least one.

    Returns:
        images, near copies, threshold, and highest similarity; featureless ones copy nothing.
    """
    described = describe_images(synthetic)
    similar = compare_all(described, describe_images(test).astype(np.float32))
    floor = described.astype(np.float32).sum(1) / np.sqrt(DIM)
    similar = np.where(np.abs(floor) > _FEATURELESS, 0.0, similar)
    return {
        "images": len(synthetic),
        "near_copies": int((similar > NEAR_COPY).sum()),
        "threshold": NEAR_COPY,
        "highest_similarity": round(float(similar.max()), 4),
    }
