"""`retrieval`: does an image-text model learn from synthetic pairs to find others?"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.errors import InputError
from factory.evaluate import base
from factory.evaluate.figures import align
from factory.evaluate.retrieval.settings import RetrievalSettings

_RECALL = re.compile(r"(i2t|t2i)_r@(\d+)")


class Retrieval(base.Evaluation):
    """Tunes an image-text model on pairs and searches held-out pairs with it, both ways.

    R@k: how often a right answer is among the k best. I2T finds captions for an image, T2I images
    for a caption. An image answers every caption equal to its own.
    """

    names: ClassVar[Mapping[str, str]] = {"i2t": "image to text", "t2i": "text to image"}
    hidden = frozenset({"by_seed"})
    sources: ClassVar[Mapping[str, str]] = {
        "held-out": "settings.held_out",
        "real": "settings.real",
    }
    is_optional = True

    class Settings(RetrievalSettings, base.EvaluationSettings):
        """The pairs, and how the model is tuned."""

        kind: Literal["retrieval"] = "retrieval"
        synthetic: fields.Images = Field(
            description="Image-caption pairs to tune on: a finished run, parquet, WebDataset tars, "
            "or a folder."
        )
        held_out: fields.Images = Field(description="Pairs to search, best real.")
        real: fields.Images | None = Field(None, description="Real pairs for the arm real.")
        image_column: fields.ImageColumn = None
        caption_column: str | None = Field(
            None, description="Column of the captions; default: caption, txt or text."
        )
        group_column: str | None = Field(
            None, description="Column of the patient or slide in real and held-out pairs."
        )
        group_pattern: str | None = Field(
            None, description="The same by a regular expression with one (group) on names."
        )
        workers: fields.Workers | None = Field(
            None, description="Tunings side by side, on Ray; default: one for each of several GPUs."
        )
        on_leak: Literal["drop", "refuse"] = Field(
            "drop",
            description="Held-out pairs whose image, caption, patient or slide is in training.",
        )
        out: fields.StudyFolder = None

    class Result(base.EvaluationResult):
        """Arm -> recalls, their differences, and what chance gives."""

        arms: base.Parts
        paired: base.Parts
        chance: base.Parts
        by_seed: base.Parts
        gallery: base.Parts
        dropped: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Needs pairs to search.

        Raises:
            InputError: there are none.
        """
        if given.pairs is None:
            raise InputError("needs --pairs")
        return cls.Settings(
            synthetic=given.synthetic,
            held_out=given.pairs,
            model=given.clip,
            pretrained=given.pretrained,
            image_column=given.image_column,
            out=given.folder / "retrieval",
        )

    def describe_work(self) -> str:
        """Says how often the model is tuned."""
        settings = self.settings
        arms = settings.choose_arms(settings.real is not None)
        return (
            f"{len(arms)} arms x {settings.seeds} seeds: {settings.model} tuned for "
            f"{settings.epochs} passes over the pairs in each, but for {arms[0]}"
        )

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields recall at 10 both ways, of synthetic pairs and of shuffled ones."""
        for metric in ("i2t_r@10", "t2i_r@10"):
            for arm in ("synthetic", "shuffled"):
                if arm in result["arms"]:
                    measure = f"{cls.name_measure(metric)} of {arm} ({result['settings']['model']})"
                    beside = f"chance: {result['chance'][metric]:.3g}"
                    yield base.Row.of(base.TIERS[1], measure, result["arms"][arm][metric], beside)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the tables, in per cent."""
        return format_report(result)

    @classmethod
    def list_warnings(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the notes."""
        return [f"NOTE {note}" for note in result["notes"]]

    @classmethod
    def name_measure(cls, key: str) -> str:
        """Returns what a key is called, e.g. `i2t_r@10`: image to text: recall at 10."""
        recall = _RECALL.fullmatch(key)
        if recall is not None:
            return f"{cls.names[recall[1]]}: recall at {recall[2]}"
        return super().name_measure(key)


def format_report(report: Mapping[str, Any]) -> list[str]:
    """Returns the tables of a report as lines, in per cent."""
    settings, gallery = report["settings"], report["gallery"]
    metrics = list(report["chance"])
    heads = [f"{name[:3].upper()} {name[4:].upper()}" for name in metrics]
    lines = [
        f"{settings['model']} ({settings['weights']} weights), {settings['pairs']:,} pairs, "
        f"{settings['epochs']} epochs, batches of {settings['batch_size']}, "
        f"{settings['seeds']} seed(s)",
        f"gallery: {gallery['images']:,} images, {gallery['captions']:,} captions",
        "",
    ]
    rows = [["%, 95 % interval over captions and seeds", *heads]]
    rows += [[arm, *(_show(of[name]) for name in metrics)] for arm, of in report["arms"].items()]
    rows.append(["(chance)", *(f"{100 * report['chance'][name]:.1f}" for name in metrics)])
    rows += [
        [pair, *(_show(of[name]) for name in metrics)] for pair, of in report["paired"].items()
    ]
    return [*lines, *align(rows)]


def _show(interval: Mapping[str, float]) -> str:
    """E.g. `12.5 (9.8 to 15.3)`."""
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
