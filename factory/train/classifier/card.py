"""The card and the reliability plot of a classifier folder, from what was measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.files.atomic import write_file
from factory.core.markdown import escape, escape_cell, write_code
from factory.core.plots import INK, draw_plot
from factory.models.classifiers.model import ClassifierInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD_NAME = "README.md"
SIZE = (400, 480)
"""px of the plot."""
BLUE, RED, GREY = "#466eaa", "#c8463c", "#bebebe"


def draw_reliability(measured: dict[str, Any]) -> bytes:
    """Draws how often predictions are right against how sure they are, as a PNG.

    Bars are the bins of the expected calibration error with images; red is the gap to the diagonal,
    where a calibrated classifier lies. Below: the images of each bin. After figure 1 of Guo et al.
    2017.

    Args:
        measured: of `measure_predictions`.
    """

    def paint(figure: "Figure") -> None:
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        red = {"align": "edge", "edgecolor": RED, "linewidth": 2, "zorder": 3}
        for each in measured["reliability"]:
            left, width = each["from"], each["to"] - each["from"]
            axes.bar(left, each["accuracy"], width, align="edge", color=BLUE, edgecolor="white")
            gap = each["confidence"] - each["accuracy"]
            axes.bar(left, gap, width, each["accuracy"], fill=False, **red)
            counts.bar(left, each["images"], width, align="edge", color=GREY, edgecolor="white")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, zorder=4)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        counts.set(xlabel="probability of the top class", ylabel="images")
        images, error, bins = (measured[name] for name in ("images", "ece", "ece_bins"))
        axes.set_title(
            f"{images:,} held-out images; expected calibration\nerror {error:.3f} over {bins} bins",
            loc="left",
        )

    return draw_plot(SIZE, paint)


def write_card(info: ClassifierInfo, folder: Path) -> None:
    """Writes README.md on what the classifier is and what it was measured to do.

    A file of that name that is there already stays.
    """
    if not (folder / CARD_NAME).exists():
        write_file(folder / CARD_NAME, describe_classifier(info).encode())


def describe_classifier(info: ClassifierInfo) -> str:
    """Returns the card: warnings first, then head, data, numbers and thresholds."""
    report = info.report
    head, measured = report["head"], report["held_out"]
    groups = "not known" if info.data.groups is None else f"{info.data.groups:,}"
    lines = [f"# Classifier of {escape(', '.join(info.class_names))}", ""]
    if report["forced"]:
        lines += [f"**FORCED. {escape(report['refused'])}. It was written with --force.**", ""]
    lines += [f"- **{escape(warning)}**" for warning in report["warnings"]]
    lines += [
        "",
        f"Encoder {write_code(info.encoder_description.id)} with a {head['kind']} head "
        f"({escape(head['why'])}), "
        f"fitted on {info.data.images:,} real images at {info.image_size} px ({info.fit}); "
        f"patients or slides: {groups}. Probabilities take all classes for equally frequent.",
        "",
        "| | held out | test |",
        "| --- | ---: | ---: |",
        *_tabulate(measured, report["test"]),
        "",
        f"Held out by {report['held_out_by']}; intervals are 95 %. The calibration error has "
        f"{measured['ece_bins']} bins (Guo et al. 2017); temperatures come from "
        f"{report['temperature_of_held_out']}. ![reliability](reliability.png)",
        "",
        "| class | images | recall | precision | confused with |",
        "| --- | ---: | ---: | ---: | --- |",
        *_tabulate_classes(info.class_names, measured),
        "",
        *_tabulate_thresholds(info),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _tabulate(held: dict[str, Any], test: dict[str, Any] | None) -> list[str]:
    def show(part: dict[str, Any] | None, key: str) -> str:
        if part is None or part[key] is None:
            return ""
        ends = part.get(f"{key}_interval")
        return f"{part[key]:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")

    rows = {
        "accuracy": "accuracy",
        "balanced accuracy": "balanced_accuracy",
        "AUROC": "auroc",
        "calibration error": "ece",
    }
    images = f"| images | {held['images']:,} | {'' if test is None else test['images']} |"
    return [
        images,
        *(f"| {name} | {show(held, k)} | {show(test, k)} |" for name, k in rows.items()),
    ]


def _tabulate_classes(class_names: tuple[str, ...], measured: dict[str, Any]) -> list[str]:
    rows = []
    for place, name in enumerate(class_names):
        part = measured["per_class"].get(name)
        if part is None:
            continue
        wrong = {
            other: count
            for other, count in zip(class_names, measured["confusion"][place], strict=True)
            if count and other != name
        }
        ordered = sorted(wrong, key=lambda key: -wrong[key])
        listed = ", ".join(f"{escape_cell(key)} {wrong[key]}" for key in ordered)
        low, high = part["recall_interval"]
        rows.append(
            f"| {escape_cell(name)} | {part['images']:,} | {part['recall']:.3f} ({low:.3f} to "
            f"{high:.3f}) | {part['precision']:.3f} | {listed} |"
        )
    return rows


def _tabulate_thresholds(info: ClassifierInfo) -> list[str]:
    if info.thresholds is None:
        return ["No thresholds by precision: too few images."]
    rows = [
        "Least probability for a wished precision (`min_precision` of the filter), and the share "
        "of the class's images that pass; classes weigh alike:",
        "",
        "| class | precision | probability | 95 % interval | passing |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found in info.thresholds.items():
        rows += [
            f"| {escape_cell(name)} | {row.precision:g} | {row.probability:.4f} | {row.low:.3f} to "
            f"{row.high:.3f} | {row.recall:.3f} |"
            for row in found
        ]
    return rows
