"""The card and the reliability plot of a classifier folder, from what was measured."""

from pathlib import Path
from typing import Any

from factory.core.files.atomic import write_file
from factory.core.markdown import escape, escape_cell, write_code
from factory.core.plots import BLACK, Canvas
from factory.models.classifiers.model import ClassifierInfo

CARD_NAME = "README.md"
SIDE, MARGIN, COUNTS = 300, 48, 60
"""px: the square of the plot, what stands around it, and the height of the counts below."""
BLUE, RED, GREY = (70, 110, 170), (200, 70, 60), (190, 190, 190)


def draw_reliability(measured: dict[str, Any]) -> bytes:
    """Draws how often predictions are right against how sure they are, as a PNG.

    Bars are the bins of the expected calibration error with images; red is the gap to the diagonal,
    where a calibrated classifier lies. Below: the images of each bin. After figure 1 of Guo et al.
    2017.

    Args:
        measured: of `measure_predictions`.
    """
    canvas = Canvas(SIDE + 2 * MARGIN, SIDE + COUNTS + 2 * MARGIN + 10)
    most = max(each["images"] for each in measured["reliability"])
    right, floor = MARGIN + SIDE, MARGIN + SIDE
    low = floor + 10 + COUNTS
    for each in measured["reliability"]:
        x0, x1 = MARGIN + SIDE * each["from"] + 1, MARGIN + SIDE * each["to"] - 1
        top, sure = (floor - SIDE * each[key] for key in ("accuracy", "confidence"))
        canvas.add_box((x0, top, x1, floor), BLUE, 1.0)
        gap = [(x0, top), (x1, top), (x1, sure), (x0, sure), (x0, top)]
        canvas.add_line(gap, RED, 2)
        tall = max(1.0, (COUNTS - 12) * each["images"] / most)
        canvas.add_box((x0, low - tall, x1, low), GREY, 1.0)
    canvas.add_line([(MARGIN, floor), (right, MARGIN)], BLACK)
    corners = [(MARGIN, MARGIN), (right, MARGIN), (right, floor), (MARGIN, floor)]
    canvas.add_line([*corners, corners[0]], BLACK)
    for step in (0.0, 0.5, 1.0):
        canvas.add_text((MARGIN - 6, floor - SIDE * step), f"{step:g}", 10, anchor="rm")
        canvas.add_text((MARGIN + SIDE * step, low + 4), f"{step:g}", 10, anchor="ma")
    images, error, bins = (measured[name] for name in ("images", "ece", "ece_bins"))
    canvas.add_text((MARGIN, 12), f"right against sure, {images:,} held-out images", 11)
    canvas.add_text((MARGIN, 27), f"expected calibration error {error:.3f} over {bins} bins", 11)
    caption = f"probability of the top class; most images {most:,}"
    canvas.add_text((MARGIN, low + 20), caption, 11)
    return canvas.encode()


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
