"""Checks of one row against itself: image, identity, provenance, scores and verdict."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.errors import FilterError, SourceError, StoreError
from factory.core.files.disk_map import DiskMap
from factory.core.hashing import compute_digest, derive_seed, hash_bytes
from factory.core.images import decode_image
from factory.data.channels import COLUMN as CHANNELS
from factory.data.channels import hash_image, hash_values
from factory.data.columns import hash_value
from factory.data.family import Family
from factory.data.provenance import Provenance, read_provenance
from factory.data.records import NONFINITE, SCORE_DECIMALS, STOPPED, round_nonfinite
from factory.data.schema import compute_described_id, show_generator
from factory.engine.dataset import DATA, Row
from factory.filters import EARLY, Decide, build_decide, build_filters
from factory.publish.verify.findings import Report
from factory.recipe.conditions import show_condition
from factory.recipe.file import reopen_session
from factory.recipe.recipe import Recipe


class RowChecks:
    """Checks rows one by one; `ids` counts the sample ids of accepted rows and of all.

    Args:
        report: where findings go.
        recipe: recipe.json of the data set, or None.
    """

    def __init__(self, report: Report, recipe: Recipe | None) -> None:
        self.report, self.recipe = report, recipe
        self.accepted: DiskMap[int] = DiskMap()
        self.all: DiskMap[int] = DiskMap()
        self.classes: Counter[str | None] = Counter()
        self.image_hashes: DiskMap[str] = DiskMap()
        self.channel_hashes: DiskMap[str] = DiskMap()
        self.score_names = {NONFINITE}
        self.decide: Decide | None = None
        if recipe is None:
            report.note("recipe.json is not there: seeds, score names and verdicts")
            return
        judges = build_filters(recipe.filters, reopen_session(recipe, Path()))
        self.score_names |= {name for judge in judges for name in judge.score_names}
        self.score_names |= set(recipe.early.score_names if recipe.early else ())
        self.decide = build_decide(judges, recipe.accept)

    def check(self, row: Row, class_names: Sequence[str]) -> None:
        """Checks one row of `data/` or `rejected/`; `class_names` are those of its labels."""
        values, report = row.values, self.report
        is_accepted = row.file.startswith(f"{DATA}/")
        report.checked["rows"] += 1
        self._count(row, is_accepted)
        try:
            record = read_provenance(values)
            shown = show_condition(record.condition)
        except (StoreError, KeyError, TypeError, AttributeError) as error:
            report.fail("provenance", row.file, str(error), row.place, "provenance")
            return
        self._check_image(row, record, is_accepted)
        self._check_identity(row, record)
        self._check_columns(row, record, shown, class_names)
        self._check_kept(row, record)
        if self._check_scores(row, record):
            self._check_verdict(row, is_accepted)

    def _count(self, row: Row, is_accepted: bool) -> None:
        name = str(row.sample_id)
        blocks = 1 if self.recipe is None else len(self.recipe.conditions)
        counts, limit = (self.accepted, 1) if is_accepted else (self.all, blocks)
        found = counts.count_up(name)
        self.report.checked["unique ids"] += 1
        if found > limit:
            message = f"is there {found} times"
            self.report.fail("unique ids", row.file, message, row.place, "sample_id")
        if is_accepted:
            self.classes[row.values.get("class_name")] += 1
            self.image_hashes[name] = str(row.values.get("image_sha256"))
            channels = row.values.get(CHANNELS)
            if channels is not None:
                self.channel_hashes[name] = hash_values(channels)

    def _check_image(self, row: Row, record: Provenance, is_accepted: bool) -> None:
        values, report, place = row.values, self.report, row.place
        image = values.get("image") or {}
        data = image.get("bytes")
        if data is None:
            left_out = self.recipe is not None and self.recipe.output.keep_rejected == "scores"
            if is_accepted or not left_out:
                report.fail("image hash", row.file, "has no bytes", place, "image")
            return
        sha = hash_bytes(data)
        report.expect(
            "image hash", row.file, sha, values["image_sha256"], place, "image (image_sha256)"
        )
        report.checked["decodable"] += 1
        try:
            pixels = decode_image(data, place)
        except SourceError as error:
            report.fail("decodable", row.file, str(error), place, "image")
            return
        size = (values["width"], values["height"])
        report.expect(
            "image size", row.file, pixels.shape[1::-1], size, place, "image (width, height)"
        )
        sha = hash_image(pixels, values.get(CHANNELS))
        report.expect("pixels", row.file, sha, record.pixels_sha256, place, "image")
        name = f"{row.sample_id}.{str(image.get('path')).rpartition('.')[2]}"
        report.expect("identity", row.file, image.get("path"), name, place, "image.path")

    def _check_identity(self, row: Row, record: Provenance) -> None:
        """Checks the chain from condition to condition id, seed and sample id."""
        values, report, generator = row.values, self.report, record.generator.to_json()
        condition, prompt = record.condition, values["prompt"]
        key = compute_digest("condition", condition)[:16]
        name = compute_described_id(condition, prompt, values["seed"], generator)
        seed = values["seed"]
        if self.recipe is not None:
            family = Family.read(record)
            shared = key if family is None else family.seed_key
            seed = derive_seed(self.recipe.seed, shared, values["ordinal"], values["attempt"])
        for column, value, made_of in (
            ("condition_id", key, "condition"),
            ("seed", seed, "condition_id, ordinal, attempt"),
            ("sample_id", name, "condition, prompt, seed, generator"),
        ):
            field = f"{column} (from {made_of})"
            report.expect("identity", row.file, values[column], value, row.place, field)

    def _check_columns(
        self,
        row: Row,
        record: Provenance,
        shown: Mapping[str, Any],
        class_names: Sequence[str],
    ) -> None:
        values, report, generator = row.values, self.report, record.generator
        name, family = shown.get("class_name"), Family.read(record)
        expected = {
            **dict.fromkeys(("class_name", "caption", "reference_sha256")),
            **shown,
            "guidance_scale": generator.first_guidance,
            "label": class_names.index(name) if name in class_names else None,
            **show_generator(record),
            **({} if family is None else family.columns(values["ordinal"])),
        }
        for column, value in expected.items():
            if column in values:
                found = values[column]
                report.expect("provenance", row.file, found, value, row.place, column)

    def _check_kept(self, row: Row, record: Provenance) -> None:
        """Checks what the row keeps to be restored from, such as a mask."""
        for column, sha in record.kept.items():
            value = row.values.get(column)
            found = None if value is None else hash_value(value)
            self.report.expect("provenance", row.file, found, sha, row.place, column)

    def _check_scores(self, row: Row, record: Provenance) -> bool:
        """Checks that every filter's scores are there, as they are rounded when stored."""
        scores, report = row.values.get("scores"), self.report
        report.checked["scores"] += 1
        if not scores:
            report.fail("scores", row.file, "has no scores", row.place, "scores")
            return False
        missing = sorted(self.score_names - set(scores))
        for name in missing:
            report.fail("scores", row.file, "is not there", row.place, f"scores.{name}")
        for name, value in scores.items():
            known = value is not None and not math.isnan(value)
            if known and round(value, SCORE_DECIMALS) != value:
                message = f"{value!r} has more than the {SCORE_DECIMALS} decimals that are stored"
                report.fail("scores", row.file, message, row.place, f"scores.{name}")
        known = scores.get(NONFINITE)
        share = round_nonfinite(record.nonfinite_fraction)
        report.expect("scores", row.file, known, share, row.place, f"scores.{NONFINITE}")
        return not missing

    def _check_verdict(self, row: Row, is_accepted: bool) -> None:
        """Checks that the stored scores give the verdict that the row lies under."""
        if self.decide is None or self.recipe is None:
            return
        values, report = row.values, self.report
        self._check_early(row)
        try:
            verdict = self.decide(values["scores"], values["class_name"])
        except FilterError as error:
            report.fail("verdict", row.file, str(error), row.place, "scores")
            return
        if is_accepted:
            why = None if verdict.accepted else f"{verdict.filter}: {verdict.reason}"
            report.expect("verdict", row.file, why, None, row.place, "scores")
            return
        judging: set[str] = {settings.name for settings in self.recipe.filters}
        judging |= {"accept", "finite", EARLY}  # what is not finite is never accepted
        found = values["rejected_by"] if values["rejected_by"] in judging else None
        report.expect("verdict", row.file, found, verdict.filter, row.place, "rejected_by")

    def _check_early(self, row: Row) -> None:
        """Checks that a try was stopped part-way where the recipe and its seed say so."""
        early = None if self.recipe is None else self.recipe.early
        if early is None:
            return
        scores, seed = row.values["scores"], row.values["seed"]
        is_hopeless = early.is_hopeless(scores, row.values["class_name"])
        is_stopped = is_hopeless and not early.is_checked(seed)
        expected = round(early.at, SCORE_DECIMALS) if is_stopped else 0.0
        found = scores.get(STOPPED)
        self.report.expect("verdict", row.file, found, expected, row.place, f"scores.{STOPPED}")


def read_label_names(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """Returns the class names of a table's labels, from its Hugging Face features."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return list(features["label"].get("names", ()))
    except (KeyError, ValueError, TypeError, AttributeError):
        return []
