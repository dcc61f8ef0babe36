"""What is proved of a model when it is adopted, each by making images and comparing them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.core.errors import CallError, GenerationError, InputError, OutOfMemoryError
from factory.data.records import Job
from factory.data.streams import Caption, Stream
from factory.models.adoption.memory import watch_memory
from factory.models.adoption.trials import Trials, make_job
from factory.models.generators.diffusers import DiffusersGenerator
from factory.models.generators.settings import Guidance

MIXED = 2
"""Levels of 255 by which a row may differ beside other rows: last bits, not another image."""
WORDS = 512
"""Words of the longest prompt that is tried."""


@dataclass
class Found:
    """What the proofs found, in words for people and as fields of an entry.

    Attributes:
        proven: what holds.
        unproven: what does not, or could not be tried, and why.
        required: streams without which the model makes nothing.
        optional: the other streams that change the image.
        effects: stream -> levels of 255 by which exchanging it changes the image.
        fields: further fields of the entry.
    """

    proven: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    effects: dict[str, int] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def note(self, holds: bool, proven: str, unproven: str) -> bool:
        """Notes one or the other; returns whether it holds."""
        (self.proven if holds else self.unproven).append(proven if holds else unproven)
        return holds


def sample(generator: DiffusersGenerator, jobs: Sequence[Job]) -> NDArray[np.int16]:
    """Returns the images of jobs, (N, H, W, 3) of bytes that can be subtracted.

    Raises:
        InputError: a condition that the model does not take.
        GenerationError: it fails, or its images are not finite.
    """
    made = generator.generate(jobs)
    if any(each.nonfinite > 0 for each in made):
        raise GenerationError("the images are not finite (NaN): try another dtype")
    images: NDArray[np.int16] = np.stack([each.pixels for each in made]).astype(np.int16)
    return images


def compare(one: NDArray[np.int16], other: NDArray[np.int16]) -> int:
    """Returns the largest difference of two images, in levels of 255."""
    return int(np.abs(one - other).max(initial=0))


def prove_sampling(trials: Trials, streams: dict[str, Stream], found: Found) -> NDArray[np.int16]:
    """Proves that images are finite, repeat exactly, and follow the seed; returns one.

    Raises:
        InputError: the model cannot be asked at all.
        GenerationError: it makes nothing.
    """
    generator, job = trials.build(), make_job(0, streams)
    first: NDArray[np.int16] = sample(generator, [job])[0]
    found.note(bool(first.std() > 1), "images are finite and not empty", "images: all of one color")
    again = compare(sample(generator, [job])[0], first)
    found.note(
        again == 0,
        "the same seed gives the same pixels",
        f"repeating: the same seed gives pixels that differ by {again} of 255",
    )
    other = sample(generator, [make_job(0, streams, job.seed + 1)])[0]
    found.note(
        compare(other, first) > 0,
        "the seed decides the noise",
        "seed: another one changes nothing",
    )
    return first


def prove_streams(
    trials: Trials, names: Sequence[str], whole: bool, first: NDArray[np.int16], found: Found
) -> None:
    """Proves each stream by ablation: exchanged and left out, the image must be another."""
    streams = trials.make_streams(0, names, whole)
    others = trials.make_streams(1, names, whole)
    generator = trials.build()
    for name in streams:
        changed = sample(generator, [make_job(0, {**streams, name: others[name]})])[0]
        difference = compare(changed, first)
        if not found.note(
            difference > 0,
            f"{name}: exchanging it changes the image by up to {difference} of 255",
            f"{name}: exchanging it changes nothing: the model does not heed it as it is bound",
        ):
            continue
        found.effects[name] = difference
        if name == Caption.name:  # a class stands for it
            found.optional.append(name)
            continue
        rest = {key: value for key, value in streams.items() if key != name}
        _prove_absence(generator, name, rest, first, found)
    if Caption.name in found.optional:
        found.optional.append("class_name")


def _prove_absence(
    generator: DiffusersGenerator,
    name: str,
    rest: dict[str, Stream],
    first: NDArray[np.int16],
    found: Found,
) -> None:
    """Finds whether a stream may be left out: only a call that fails without it says no."""
    without, left = None, f"{name}: leaving it out"
    try:
        without = compare(sample(generator, [make_job(0, rest)])[0], first) if rest else None
    except CallError:
        found.proven.append(f"{name}: nothing is made without it")
    except (InputError, GenerationError) as error:
        found.unproven.append(f"{left} could not be tried ({_shorten(error)})")
    else:
        if not rest:
            found.unproven.append(f"{left} was not tried: it is the only stream")
        elif without == 0:
            found.unproven.append(f"{left} changes nothing")
    (found.required if without is None else found.optional).append(name)


def prove_reference(
    trials: Trials, names: Sequence[str], whole: bool, first: NDArray[np.int16], found: Found
) -> None:
    """Proves that a model that starts from noise can vary an image, too."""
    generator = trials.build()
    made = []
    try:
        for number in range(2):
            image = trials.make_streams(number, ("reference",), whole)
            streams = {**trials.make_streams(0, names, whole), **image}
            made.append(sample(generator, [make_job(0, streams)])[0])
    except (InputError, GenerationError) as error:
        found.unproven.append(f"reference: {_shorten(error)}")
        return
    difference = min(compare(made[0], made[1]), compare(made[0], first))
    if found.note(
        difference > 0,
        f"reference: exchanging it changes the image by up to {difference} of 255",
        "reference: exchanging it changes nothing",
    ):
        found.optional.append("reference")
        found.effects["reference"] = difference


def prove_rows(trials: Trials, names: Sequence[str], whole: bool, found: Found) -> None:
    """Proves that a row of a batch is the row alone; else one image a call is noted and proved.

    What was noted of other streams is kept where it is the more careful.
    """
    jobs = [make_job(n, trials.make_streams(n, names, whole)) for n in range(3)]
    why = "memory does not hold two images"
    asked = f"asked by {' and '.join(names)}"
    generator = trials.change(one_per_call=False).build(batch_size=2)
    try:
        row = sample(generator, [jobs[0], jobs[1]])[1]
        beside = compare(sample(generator, [jobs[2], jobs[1]])[1], row)
        is_tried = generator.batch_size == 2  # halved where memory was short
        generator.halve_batch()
        alone = compare(sample(generator, [jobs[1]])[0], row)
    except CallError as error:
        found.fields["one_per_call"] = True
        found.proven.append(f"one image a call: two in one call fail ({_shorten(error)}), {asked}")
        return
    except (InputError, GenerationError) as error:
        is_tried, why = False, _shorten(error)
    if not is_tried:
        found.unproven.append(f"rows: not tried, {asked}: {why}")
        if not found.fields.get("one_per_call"):
            found.fields["one_per_call"] = None  # as the family has it
        return
    moved, least = max(beside, alone), min((found.effects.get(n, 0) for n in names), default=0)
    if moved == 0 or (moved <= MIXED and 2 * moved < least):
        equal = "bit-equal" if moved == 0 else f"within {moved} of 255"
        found.proven.append(f"a row of a batch is the row alone ({equal}), {asked}")
        found.fields.setdefault("one_per_call", False)
        return
    found.fields["one_per_call"] = True
    generator = trials.change(one_per_call=True).build(batch_size=2)
    row = sample(generator, jobs[:2])[1]
    left = compare(sample(generator, [jobs[2], jobs[1]])[1], row)
    found.note(
        left == 0,
        f"one image a call: in one call images mix (by up to {moved} of 255), {asked}",
        f"rows: an image depends on those before it (by up to {left} of 255)",
    )


def prove_guidance(trials: Trials, streams: dict[str, Stream], found: Found) -> None:
    """Finds how guidance is read: at every step, once, or not at all."""
    job, scale = make_job(0, streams), max(trials.entry.guidance, 2.0)
    argument = trials.build().family.guidance_argument
    if argument is None:
        found.fields["guidance_kind"] = "none"
        found.proven.append("guidance: the call takes no scale")
        return
    try:
        low = sample(trials.build(guidance=scale), [job])[0]
        high = sample(trials.build(guidance=scale + 3.0), [job])[0]
    except (InputError, GenerationError) as error:
        found.unproven.append(f"guidance: {_shorten(error)}")
        return
    if compare(low, high) == 0:
        found.fields["guidance_kind"] = "none"
        found.unproven.append(f"guidance: {argument} {scale:g} and {scale + 3:g} give one image")
        return
    found.proven.append(f"guidance: {argument} changes the image")
    found.fields["guidance_kind"] = "call"
    try:
        steps = trials.change(guidance_kind="step")
        falling = steps.build(guidance=Guidance(scale=scale, end=0.0), steps=4)
        held = steps.build(guidance=scale, steps=4)
        if compare(sample(falling, [job])[0], sample(held, [job])[0]) > 0:
            found.fields["guidance_kind"] = "step"
            found.proven.append("guidance: it is read at every step, so a schedule works")
    except (InputError, CallError):
        found.proven.append("guidance: it is read once, so a schedule does not work")
    except GenerationError as error:
        found.unproven.append(f"guidance: a schedule could not be tried ({_shorten(error)})")


def count_words(trials: Trials, streams: dict[str, Stream], found: Found) -> int | None:
    """Finds how many words of a caption reach the image, templates and limits counted."""
    if Caption.name not in streams:
        return None
    generator = trials.build()

    def reaches(words: int) -> bool:
        text = "cell " * (words - 1)
        pair = [{**streams, Caption.name: Caption(text + last)} for last in ("fat", "mucin")]
        one, other = (sample(generator, [make_job(0, each)])[0] for each in pair)
        return compare(one, other) > 0

    if not reaches(1):
        found.unproven.append("caption: not even one word reaches the image")
        return 0
    low, high = 1, 2
    while high <= WORDS and reaches(high):
        low, high = high, 2 * high
    if high > WORDS:
        found.proven.append(f"caption: {low} words reach the image")
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    found.note(
        low >= 20,
        f"caption: the first {low} words reach the image (of short words), the rest is cut",
        f"caption: only the first {low} short words reach the image: a template or a limit "
        "(max_sequence_length) leaves no room",
    )
    return low


def measure(trials: Trials, streams: dict[str, Stream], largest: int, found: Found) -> None:
    """Measures seconds and memory of an image at full steps, and the batch sizes that fit."""
    job = make_job(0, streams)
    full = trials.build(steps=trials.entry.steps)
    sample(full, [job])
    with watch_memory(full.model.device) as peak:
        began = time.perf_counter()
        sample(full, [job])
        found.fields["seconds_per_image"] = round(time.perf_counter() - began, 3)
    if peak.gb is not None:
        found.fields["memory_gb"] = round(peak.gb, 2)
        found.proven.append(f"memory: {peak.gb:.2f} GB at most ({peak.told})")
    else:
        found.unproven.append(f"memory: not measured on {full.model.device}, only on CUDA and CPU")
    if found.fields.get("one_per_call"):
        found.fields["batch_sizes"] = (1,)
        return
    fitting = [1]
    size = 2
    while size <= largest:
        try:
            sample(trials.build(batch_size=size), [job])
        except OutOfMemoryError:
            break
        if trials.build(batch_size=size).batch_size < size:
            break
        fitting.append(size)
        size *= 2
    found.fields["batch_sizes"] = tuple(fitting)
    found.proven.append(f"batches: {fitting[-1]} images fit (tried up to {largest})")


def is_whole(generator: DiffusersGenerator) -> bool:
    """Whether the model looks at an image as it is: its call has no strength."""
    call = getattr(generator.family, "image_call", None)
    return call is not None and not call.has_strength


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
