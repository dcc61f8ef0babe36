"""`fidelity`: how near synthetic images are to real ones, per class and overall."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.places import shorten_places
from factory.evaluate import DEFAULT_ENCODER, base
from factory.evaluate.figures import align

COLUMNS_SHOWN = 4
ROWS_SHOWN = ("fd", "kid", "precision", "recall")
"""Metrics in the table of `evaluate all`."""


class FidelitySettings(fields.SetOptions):
    """What to measure with."""

    encoders: Annotated[tuple[str, ...], fields.Option("--encoder", metavar="SPEC")] = Field(
        (DEFAULT_ENCODER,),
        description=f"Catalog id, LIBRARY:NAME or folder. Repeatable; default: {DEFAULT_ENCODER}.",
    )
    max_images: fields.Count | None = Field(None, description="Most images of each set.")
    force: bool = Field(False, description="Give FD with fewer images than features too, marked.")
    label_column: str | None = Field(None, description="Column of the real images with the class.")


class Fidelity(base.Evaluation):
    """Measures how near synthetic images are to real ones, per class and overall.

    FD, KID, CMMD, precision, recall, density and coverage, each beside the floor: what real images
    held back get against the other real ones.
    """

    names: ClassVar[Mapping[str, str]] = {"cmmd": "CMMD", "fd": "Fréchet distance", "kid": "KID"}
    sources: ClassVar[Mapping[str, str]] = {"real": "real"}

    class Settings(FidelitySettings, base.EvaluationSettings):
        """The sets, and what to measure with."""

        kind: Literal["fidelity"] = "fidelity"
        real: fields.Images = Field(
            description="Real images: ImageFolder, parquet, WebDataset tars, datasets folder."
        )
        synthetic: tuple[fields.Images, ...] = Field(
            description="Synthetic images: the same kinds, or a finished run. Repeatable."
        )

    class Result(base.EvaluationResult):
        """Figures for each encoder, synthetic set and class (None: overall), beside the floor."""

        real: base.Parts
        synthetic: base.Items
        figures: base.Items

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Compares with the real images that no training used."""
        return super().adapt(given, real=given.test, encoders=(given.encoder,))

    def describe_work(self) -> str:
        """Says with what the images are encoded."""
        return f"all images encoded by {', '.join(self.settings.encoders)}, once"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields the overall figures, each beside its floor."""
        for figure in result["figures"]:
            if figure["class"] is not None:
                continue
            spec, floor = figure["encoder"]["spec"], figure["floor"]
            for name in ROWS_SHOWN:
                metric = figure["metrics"][name]
                near = None if floor is None else floor["metrics"][name].get("value")
                beside = "no floor" if near is None else f"real held back: {near:.3g}"
                marks = ("CIRCULAR",) if figure["circular"] else ()
                marks += tuple(metric[key] for key in ("refused", "flag") if metric.get(key))
                counts = f"{figure['n_synthetic']:,} against {figure['n_real']:,}"
                measure = f"{cls.name_measure(name)} ({spec}, {counts})"
                yield base.Row.of(base.TIERS[0], measure, metric, beside, marks)

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines of the table."""
        return describe_result(result)

    @classmethod
    def list_notes(cls, result: Mapping[str, Any]) -> Iterator[Any]:
        """Yields warnings, and which encoder took part in making the images."""
        yield from super().list_notes(result)
        for figure in result.get("figures") or ():
            for part in figure.get("circular") or ():
                yield f"NOT INDEPENDENT: {shorten_places(part)}"


def describe_result(result: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the table: a block for each encoder and synthetic set."""
    blocks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for figure in result["figures"]:
        blocks.setdefault((figure["encoder"]["spec"], figure["path"]), []).append(figure)
    lines: list[str] = []
    for figures in blocks.values():
        lines += ["", *_describe_encoder(figures[0])]
        for start in range(0, len(figures), COLUMNS_SHOWN):
            lines += ["", *align(_tabulate(figures[start : start + COLUMNS_SHOWN]))]
    return [*lines[1:], "", "[95 % interval; of the floor: smallest and largest of its parts]"]


def describe_encoder(encoder: Mapping[str, Any], size: int, fit: str) -> str:
    """Returns which encoder it is, and what it was shown."""
    sha256 = encoder["weights_sha256"]
    weights = "no weights" if sha256 is None else f"weights {sha256[:12]}"
    revision = f" revision {encoder['revision']}" if encoder["revision"] else ""
    return (
        f"encoder {encoder['spec']}{revision} ({weights}, {encoder['dim']} features, scaled: "
        f"{encoder['scaling']}); images {size} px, {fit}"
    )


def _describe_encoder(figure: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{figure['synthetic']}",
        describe_encoder(figure["encoder"], figure["size"], figure["fit"]),
        f"preprocessing: {figure['encoder']['preprocessing']}",
    ]
    return lines + [f"CIRCULAR, NOT INDEPENDENT: {part}" for part in figure["circular"]]


_NAMES = {
    "fd": "FD",
    "kid": "KID x 1000",
    "cmmd": "CMMD",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}


def _tabulate(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["", *(figure["class"] or "overall" for figure in figures)]]
    rows.append(["N real", *(f"{figure['n_real']:,}" for figure in figures)])
    rows.append(["N synthetic", *(f"{figure['n_synthetic']:,}" for figure in figures)])
    for name, title in _NAMES.items():
        rows.append([title, *(_format(name, figure["metrics"][name]) for figure in figures)])
    floors = [figure["floor"] for figure in figures]
    rows.append(["floor: real against real", *(_describe_floor(floor) for floor in floors)])
    for name, title in _NAMES.items():
        metrics = [None if floor is None else floor["metrics"][name] for floor in floors]
        rows.append([f"  {title}", *(_format(name, each) if each else "-" for each in metrics)])
    return rows


def _describe_floor(floor: Mapping[str, Any] | None) -> str:
    if floor is None:
        return "one group only"
    apart = ", other groups" if floor["groups_disjoint"] else ""
    held, whole = floor["n_held_back"], floor["n_held_back"][0] + floor["n_real"][0]
    size = f"{min(held):,}" if min(held) == max(held) else f"{min(held):,} to {max(held):,}"
    return f"{len(held)} x {size} of {whole:,}{apart}"


def _format(name: str, metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        why = "N < features" if name == "fd" else "too few"
        return f"REFUSED ({why})"
    factor, digits = {"kid": (1000, 2), "fd": (1, 2)}.get(name, (1, 3))
    text = f"{metric['value'] * factor:.{digits}f}"
    if "low" in metric:
        low, high = (metric[end] * factor for end in ("low", "high"))
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} MEANINGLESS (N < features)" if "flag" in metric else text
