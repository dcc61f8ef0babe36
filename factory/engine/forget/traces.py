"""What else in a run folder shows or names a patient's images: removed, and looked for again."""

import itertools
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import pyarrow as pa

from factory.core.errors import StoreError
from factory.core.files.new_folder import WORK
from factory.core.plain import write_json
from factory.data.review.store import PLACE, ReviewStore
from factory.engine.finalise import SUMMARY
from factory.engine.forget.touched import Matches, list_groups
from factory.engine.forgotten import hide_hashes
from factory.engine.later import LATER, compute_later, read_scores, write_later
from factory.engine.placing import BUILD, FOLDERS, PLACED
from factory.engine.run_folder import RunFolder
from factory.engine.summary import RECIPE, read_recipe
from factory.filters.later import Gathered

MEASURED = ("evaluation", "report.html")
"""What was measured of the set as it was, and shows its images and real ones beside them."""
DESCRIBED = ("assets", "croissant.json", "prov.json", "README.md")
"""Written again with the card; removed where no data set is left."""
_BLOCK = 1 << 20


def names_them(folder: RunFolder, marks: Set[str]) -> bool:
    """Whether what was measured names one of these marks."""
    pattern = _compile(marks)
    names = [n for n in folder.files.list_sizes() if n.split("/")[0] in MEASURED]
    return pattern is not None and any(
        pattern.search(block) for name in names for block in _read_blocks(folder, name)
    )


def remove_measured(folder: RunFolder) -> list[str]:
    """Removes results and pictures of evaluations, and the report; returns what was there."""
    there = [name for name in MEASURED if folder.files.exists(name)]
    for name in there:
        folder.files.remove(name)
    return there


def remove_set(folder: RunFolder) -> None:
    """Removes the data set and all that is said of it, so that shards alone are left."""
    folder.files.remove(SUMMARY)
    for name in (*FOLDERS, *DESCRIBED, PLACED, BUILD):
        folder.files.remove(name)


def clean_reviews(folder: RunFolder, keys: Set[str]) -> tuple[int, int]:
    """Removes cases of readings that show images of these sample ids or keys, with their answers.

    Returns:
        Cases and answers that were removed.
    """
    if not folder.files.is_local or not folder.files.exists(PLACE):
        return 0, 0
    return ReviewStore(Path(folder.files.root)).remove_cases(keys)


def clean_records(folder: RunFolder, hashes: Set[str], names: Set[str]) -> None:
    """Takes images' hashes out of what the run record says of series, and out of quarantines."""
    record = folder.require_run()
    series = tuple(
        part.model_copy(update={"details": hide_hashes(part.details, hashes)})
        if part.details
        else part
        for part in record.series
    )
    if series != record.series:
        folder.write_run(record.model_copy(update={"series": series}))
    marks = _compile(hashes | names)
    for name in folder.files.list(f"{WORK}/quarantine"):
        place = f"{WORK}/quarantine/{name}"
        if marks is not None and marks.search(folder.files.read(place)):
            folder.files.remove(place)


def clean_later(folder: RunFolder, sample_ids: Set[str] | None) -> None:
    """Takes rows out of the scores that people gave after the run, and removes unused scores.

    Args:
        folder: run folder.
        sample_ids: of the rows; None: of all.

    Raises:
        DamageError: scores that the data set was decided by are gone, or damaged.
    """
    recipe, named = read_recipe(folder), set[str]()
    filters = [] if recipe is None else list(recipe.filters)
    for place, settings in enumerate(filters):
        digest = getattr(settings, "later", None)
        if digest is not None:
            found = read_scores(folder, settings.name, digest)
            gone = found.scores.keys() if sample_ids is None else sample_ids
            left = {name: own for name, own in found.scores.items() if name not in gone}
            digest = compute_later(found.missing, left)
            write_later(folder, {digest: Gathered(found.missing, left)})
            filters[place] = settings.model_copy(update={"later": digest})
            named.add(f"{digest}.json")
    if recipe is not None and named:
        recipe = recipe.model_copy(update={"filters": tuple(filters)})
        folder.files.write(RECIPE, write_json(recipe.model_dump(mode="json")).encode())
    for name in {*folder.files.list(LATER)} - named:
        folder.files.remove(f"{LATER}/{name}")


def find_traces(folder: RunFolder, matches: Matches, marks: Set[str]) -> list[str]:
    """Returns the names of files in a run folder that name a patient or an image of theirs.

    Every file is read: rows of tables by their provenance and their texts, all else as bytes.

    Args:
        folder: run folder.
        matches: whom to look for.
        marks: hashes and names of their images.
    """
    pattern = _compile(marks)
    found = []
    for name in sorted(folder.files.list_sizes()):
        if name.endswith(".parquet"):
            theirs = _is_in_table(folder, name, matches, pattern)
        else:
            theirs = pattern is not None and any(map(pattern.search, _read_blocks(folder, name)))
        if theirs:
            found.append(name)
    return found


def _compile(marks: Set[str]) -> re.Pattern[bytes] | None:
    return re.compile(_join(sorted(marks)).encode()) if marks else None


def _join(words: Sequence[str]) -> str:
    """Returns a pattern of any of these sorted words that tries what they begin with once.

    A plain alternation tries each word at each byte: hours over a set, of a slide of 4,000 patches.
    """
    ends = zip(words[0], words[-1], strict=False)
    head = "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    rest = [each[len(head) :] for each in words]
    if not rest[0]:  # which is in all others
        return re.escape(head)
    branches = (_join([*found]) for _, found in itertools.groupby(rest, lambda each: each[0]))
    return f"{re.escape(head)}(?:{'|'.join(branches)})"


def _read_blocks(folder: RunFolder, name: str) -> Iterator[bytes]:
    """Yields a file in pieces that overlap, so that no name is cut."""
    with folder.files.open(name, "rb") as stream:
        before = b""
        while block := stream.read(_BLOCK):
            yield before + block
            before = block[-4096:]


def _is_in_table(
    folder: RunFolder, name: str, matches: Matches, pattern: re.Pattern[bytes] | None
) -> bool:
    try:
        with folder.files.open_parquet(name) as table:
            texts = [each.name for each in table.schema if pa.types.is_string(each.type)]
            for group in range(len(table.groups)):
                rows = table.read_group(group, texts).to_pylist()
                if any(_tells(row, name, matches, pattern) for row in rows):
                    return True
    except StoreError:  # no table of a run's: as bytes
        return pattern is not None and any(map(pattern.search, _read_blocks(folder, name)))
    return False


def _tells(
    row: dict[str, str | None], name: str, matches: Matches, pattern: re.Pattern[bytes] | None
) -> bool:
    if row.get("provenance") and matches(list_groups(row, name)):
        return True
    texts = "\n".join(text for text in row.values() if text)
    return pattern is not None and pattern.search(texts.encode()) is not None
