"""Previews: a few first tries of a recipe, judged, as files to look at."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from factory.core.files.atomic import write_file
from factory.core.files.new_folder import refuse_foreign
from factory.core.plain import write_json
from factory.core.sheets import set_beside
from factory.data.records import Candidate
from factory.engine.estimate import describe_loading, draw_first_jobs
from factory.engine.plan import Plan
from factory.recipe.file import LoadedRecipe

if TYPE_CHECKING:
    from factory.engine.shard import Worker

COLUMNS = 8
OWN = r"preview\.(json|png)|\d{4,}\.(webp|png)"
"""Names of the files that a preview is made of."""
ACCEPTED, REJECTED = (34, 139, 34), (200, 30, 30)


def preview_recipe(
    loaded: LoadedRecipe, out: Path, count: int, say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Samples attempt 0 of the first requests: the very images that a run would try first.

    Writes one image file per candidate, `preview.json` with scores and verdicts, and `preview.png`,
    a sheet with accepted images framed in green and rejected ones in red. `say` is called with one
    line before the model is loaded.

    Returns:
        One row per candidate: file, label, seed, scores, accepted, rejected_by, reason.

    Raises:
        InputError: `out` holds something else than a preview.
        FactoryError: the model or a filter cannot be loaded.
        StoreError: disk full, permission.
    """
    from factory.core.images import encode_image
    from factory.engine.run import plan_recipe
    from factory.engine.shard import Worker
    from factory.engine.task import Order

    refuse_foreign(out, OWN)
    plan = plan_recipe(loaded)
    say(describe_loading(loaded.recipe, min(count, plan.count_requests())))
    worker = Worker(Order(loaded.recipe, loaded.session, "memory://preview"))
    labels = {part.key: part.label for part in plan.series}
    suffix = loaded.recipe.output.image_format
    candidates = [each for batch in judge_first_tries(worker, plan, count) for each in batch]
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        job, sample, verdict = candidate.job, candidate.sample, candidate.verdict
        name = f"{len(rows):04d}.{suffix}"
        data = encode_image(sample.pixels, suffix, not job.condition.is_existing)
        write_file(out / name, data)
        rows.append(
            {
                "file": name,
                "label": labels[job.request.series],
                "attributes": job.condition.attributes,
                "prompt": sample.prompt,
                "seed": job.seed,
                "scores": {k: None if np.isnan(v) else v for k, v in candidate.scores.items()},
                "accepted": verdict.accepted,
                "rejected_by": verdict.filter,
                "reason": verdict.reason,
            }
        )
    write_file(out / "preview.json", write_json(rows).encode())
    write_file(out / "preview.png", draw_sheet(candidates))
    return rows


def judge_first_tries(worker: "Worker", plan: Plan, count: int) -> Iterator[list[Candidate]]:
    """Yields the judged first tries of a plan's first requests by batch, the series taking turns.

    Raises:
        FactoryError: sampling or scoring failed.
    """
    size = worker.recipe.generator.batch_size
    jobs = draw_first_jobs(plan, worker.recipe.seed, count)
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        yield worker.try_all(batch)


def draw_sheet(candidates: Sequence[Candidate], largest: int | None = None) -> bytes:
    """Returns a PNG of all images: accepted ones framed in green, rejected ones in red.

    What was asked for and can be seen, such as a mask, stands to the right of each.

    Args:
        candidates: one or more, all of one size.
        largest: side in px that larger images are shrunk to; None: none are.
    """
    cells = _draw_cells(candidates)
    height, width = cells[0][0].shape[:2]
    longest, frame = max(height, width), 3
    zoom: float = max(1, 96 // longest)
    if largest is not None:
        zoom = min(zoom, largest / longest)
    width, height = round(width * zoom), round(height * zoom)
    step_x, step_y = width + 2 * frame, height + 2 * frame
    lines = -(-len(cells) // COLUMNS)
    canvas = Image.new("RGB", (min(len(cells), COLUMNS) * step_x, lines * step_y), "white")
    draw = ImageDraw.Draw(canvas)
    for position, (pixels, accepted) in enumerate(cells):
        y, x = divmod(position, COLUMNS)
        corner = (x * step_x, y * step_y)
        box = (*corner, corner[0] + step_x - 1, corner[1] + step_y - 1)
        draw.rectangle(box, fill=ACCEPTED if accepted else REJECTED)
        image = Image.fromarray(pixels).resize((width, height))
        canvas.paste(image, (corner[0] + frame, corner[1] + frame))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_cells(candidates: Sequence[Candidate]) -> list[tuple[NDArray[np.uint8], bool]]:
    """Returns the pixels of each, with what was asked for beside them, and whether it passed."""
    asked = [each.job.condition.draw(*each.sample.pixels.shape[1::-1]) for each in candidates]
    room = max(map(len, asked))
    return [
        (set_beside(each.sample.pixels, others, room), each.verdict.accepted)
        for each, others in zip(candidates, asked, strict=True)
    ]
