"""`copies`: whether synthetic images copy real ones."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.evaluate import DEFAULT_ENCODER, base
from factory.evaluate.fidelity import describe_encoder
from factory.evaluate.figures import align
from factory.filters.training_copy import TrainingCopyFilter

MAX_SIMILARITY: float = TrainingCopyFilter.Settings.model_fields["max_similarity"].default
"""Above it the filter `training_copy` rejects by default."""
NEARER = "nearer_than_"


class CopySettings(fields.SetOptions):
    """What to compare with."""

    encoder: Annotated[str, fields.Option(metavar="SPEC")] = Field(
        DEFAULT_ENCODER, description="Catalog id, LIBRARY:NAME or folder."
    )
    max_similarity: float = Field(
        MAX_SIMILARITY,
        ge=0.0,
        le=1.0,
        description="Above it an image counts as a copy; default: as of the filter training_copy.",
    )
    cells: int = Field(3, ge=1, le=1000, description="k-means cells of C_T.")


class Copies(base.Evaluation):
    """Looks for synthetic images that copy training images, by several measures.

    AuthPct, C_T, distances to the nearest training image beside those of held-out images, the
    similarity of the filter training_copy, and leaks of patients or slides between the sets.
    """

    names: ClassVar[Mapping[str, str]] = {
        "authpct": "AuthPct, %: share that is no nearest copy",
        "c_t": "C_T (below 0: copies)",
        "distance": "distance to the nearest training image",
        "own_reference": "beside the real image that each varies",
        "ratio": "ratio of medians to the usual",
        "share_above": "share above that similarity",
        "share_nearest": "share whose own reference is the nearest",
        "similarity": "similarity, as of the filter training_copy",
    }
    hidden = frozenset({"pairs", "train", "cells"})
    sources: ClassVar[Mapping[str, str]] = {"real": "train", "held-out": "held_out"}
    drawings = (
        base.Drawing(
            "copies.png",
            "The closest pairs of synthetic and training images, side by side",
            shows_real=True,
        ),
    )
    known_by = "authpct"

    class Settings(CopySettings, base.EvaluationSettings):
        """The sets, and what to compare them with."""

        kind: Literal["copies"] = "copies"
        real: fields.Images = Field(
            description="Training images: ImageFolder, parquet, WebDataset tars, datasets folder."
        )
        held_out: fields.Images | None = Field(
            None, description="Real images that no training used; C_T needs them."
        )
        synthetic: fields.Images = Field(
            description="Synthetic images: the same kinds, or a finished run."
        )
        gallery: fields.NewFile | None = Field(
            None, description="Picture (PNG) of the closest pairs side by side."
        )

    class Result(base.EvaluationResult):
        """Each measure of the synthetic images, beside what is usual for real ones."""

        scope: str = ""
        encoder: base.Parts
        authpct: base.Parts
        c_t: base.Parts
        distance: base.Parts
        similarity: base.Parts
        own_reference: dict[str, Any] | None = None
        pairs: base.Parts

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Compares with the training images; those that no training used say what is usual."""
        gallery = given.folder / "copies.png"
        return super().adapt(given, held_out=given.test, gallery=gallery)

    def describe_work(self) -> str:
        """Says with what the images are encoded."""
        return f"all images encoded by {self.settings.encoder}, once"

    def tell_written(self) -> str:
        """Says where the gallery is."""
        return "" if self.settings.gallery is None else f"look at {self.settings.gallery}"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields AuthPct and C_T."""
        authpct = result["authpct"]
        beside = f"{result['usual']}: {authpct['usual']['value']:.3g}"
        measure = f"AuthPct, % ({result['encoder']['id']}, {result['scope']})"
        yield base.Row.of(base.COPIES, measure, authpct["synthetic"], beside)
        yield base.Row.of(base.COPIES, cls.names["c_t"], result["c_t"], "0")

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        return describe_copies(result)

    @classmethod
    def name_measure(cls, key: str) -> str:
        """Returns what a key is called, e.g. `nearer_than_0.01`: nearer than 99% of the usual."""
        if key.startswith(NEARER):
            return f"share nearer than {1 - float(key.removeprefix(NEARER)):.0%} of the usual"
        return super().name_measure(key)

    @classmethod
    def tell_copies(cls, result: Mapping[str, Any]) -> str:
        """Returns the reference set, and how many images are above the similarity."""
        text = str(result.get("scope", "reference set not named"))
        similar = result.get("similarity", {}).get("synthetic")
        if isinstance(similar, dict) and "above" in similar:
            limit = result["similarity"]["max_similarity"]
            text += f"; {similar['above']:,} of {similar['images']:,} images above {limit:g}"
        return text


def describe_copies(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table."""
    settings = result["settings"]
    usual = result.get("held_out") or result["train"]
    distance, similarity = result["distance"], result["similarity"]
    share = similarity["max_similarity"]
    rows = [
        ["", result["synthetic"]["name"], f"usual ({result['usual']})"],
        ["images", f"{result['synthetic']['images']:,}", f"{usual['images']:,}"],
        ["AuthPct", *(_format(result["authpct"][side]) for side in ("synthetic", "usual"))],
        ["C_T (below 0: copies)", _describe_test(result["c_t"]), "0"],
        [
            "distance to training: median",
            f"{distance['median']:.4g}",
            _show(distance["usual_median"]),
        ],
        ["  ratio of the medians", _format(distance["ratio"]), "1"],
        *_describe_near(distance),
        [f"similarity above {share:g}", *_compare(similarity, _describe_above)],
        ["  largest (not blank)", *_compare(similarity, lambda side: _show(side["largest"]))],
        ["  median", *_compare(similarity, lambda side: _show(side["median"]))],
        *_describe_own(result["own_reference"], share),
    ]
    return [
        result["scope"],
        describe_encoder(result["encoder"], settings["size"], settings["fit"]),
        f"preprocessing: {result['encoder']['preprocessing']}",
        *(f"CIRCULAR, NOT INDEPENDENT: {part}" for part in result["circular"]),
        "",
        *align(rows),
        "",
        f"[95 % interval] training images: {result['train']['images']:,}",
    ]


def _describe_near(distance: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, metric in distance.items():
        if name.startswith("nearer_than_"):
            usual = float(name.removeprefix("nearer_than_"))
            text = _format({key: metric[key] * 100 for key in ("value", "low", "high")})
            rows.append([f"  nearer than {1 - usual:.0%} of usual, %", text, f"{100 * usual:g}"])
    return rows


def _describe_own(own: Mapping[str, Any] | None, share: float) -> list[list[str]]:
    if own is None:
        return []
    rows = [["variations", f"{own['rows']:,}, of {own['found']:,} the reference is there", ""]]
    if own["found"]:
        above = {key: own["share_above"][key] * 100 for key in ("value", "low", "high")}
        nearest = own["share_nearest"]["value"]
        rows += [
            [
                f"  like their reference above {share:g}",
                f"{own['above']:,}; {_format(above)} %",
                "",
            ],
            ["  similarity to it: median", _show(own["median"]), ""],
            ["  nearest to it of all", f"{nearest:.1%}", ""],
        ]
    return rows


def _describe_test(test: Mapping[str, Any]) -> str:
    if test["value"] is None:
        whole = f"; all as one cell: {test['z']:.2f}" if "z" in test else ""
        return f"REFUSED ({test['refused']}){whole}"
    cells = ", ".join("-" if cell["z"] is None else f"{cell['z']:.2f}" for cell in test["cells"])
    return f"{test['value']:.2f} (cells: {cells})"


def _describe_above(side: Mapping[str, Any]) -> str:
    blank = f", {side['blank_above']} of them blank" if side["blank_above"] else ""
    share = {key: side["share_above"][key] * 100 for key in ("value", "low", "high")}
    return f"{side['above']:,} of {side['images']:,}{blank}; {_format(share)} %"


def _compare(similarity: Mapping[str, Any], write: Any) -> list[str]:
    return [
        write(similarity[side]) if side in similarity else "-" for side in ("synthetic", "held_out")
    ]


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _format(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.3g} [{metric['low']:.3g}, {metric['high']:.3g}]"
