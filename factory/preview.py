"""Previews: a few first tries of a recipe, judged, as files to look at."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from factory.estimate import draw_first_jobs
from factory.recipe_file import LoadedRecipe

COLUMNS = 8
ACCEPTED, REJECTED = (34, 139, 34), (200, 30, 30)


def preview_recipe(loaded: LoadedRecipe, out: Path, count: int) -> list[dict[str, Any]]:
    """Samples attempt 0 of the first requests: the very images that a run would try first.

    Writes one image file per candidate, `preview.json` with scores and verdicts, and `preview.png`,
    a sheet with accepted images framed in green and rejected ones in red.

    Returns:
        One row per candidate: file, label, seed, scores, accepted, rejected_by, reason.

    Raises:
        FactoryError: the model or a filter cannot be loaded.
    """
    from factory.images import encode_image
    from factory.run import plan_recipe
    from factory.shard import Order, Worker

    recipe, plan = loaded.recipe, plan_recipe(loaded)
    worker = Worker(Order(recipe, loaded.base, "memory://preview"))
    out.mkdir(parents=True, exist_ok=True)
    labels = {part.key: part.label for part in plan.series}
    jobs = draw_first_jobs(plan, recipe.seed, count)
    size, suffix = recipe.generator.batch_size, recipe.output.image_format
    rows: list[dict[str, Any]] = []
    sheet: list[tuple[np.ndarray[Any, Any], bool]] = []
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        for candidate in worker.judge(batch, worker.generator.generate(batch)):
            job, sample, verdict = candidate.job, candidate.sample, candidate.verdict
            name = f"{len(rows):04d}.{suffix}"
            (out / name).write_bytes(encode_image(sample.pixels, suffix))
            sheet.append((sample.pixels, verdict.accepted))
            rows.append(
                {
                    "file": name,
                    "label": labels[job.request.series],
                    "prompt": sample.prompt,
                    "seed": job.seed,
                    "scores": {k: None if np.isnan(v) else v for k, v in candidate.scores.items()},
                    "accepted": verdict.accepted,
                    "rejected_by": verdict.filter,
                    "reason": verdict.reason,
                }
            )
    (out / "preview.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (out / "preview.png").write_bytes(_draw_sheet(sheet))
    return rows


def _draw_sheet(cells: list[tuple[np.ndarray[Any, Any], bool]]) -> bytes:
    height, width = cells[0][0].shape[:2]
    zoom, frame = max(1, 96 // max(height, width)), 3
    step_x, step_y = width * zoom + 2 * frame, height * zoom + 2 * frame
    lines = -(-len(cells) // COLUMNS)
    canvas = Image.new("RGB", (min(len(cells), COLUMNS) * step_x, lines * step_y), "white")
    draw = ImageDraw.Draw(canvas)
    for position, (pixels, accepted) in enumerate(cells):
        y, x = divmod(position, COLUMNS)
        corner = (x * step_x, y * step_y)
        box = (*corner, corner[0] + step_x - 1, corner[1] + step_y - 1)
        draw.rectangle(box, fill=ACCEPTED if accepted else REJECTED)
        image = Image.fromarray(pixels).resize((width * zoom, height * zoom))
        canvas.paste(image, (corner[0] + frame, corner[1] + frame))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()
