"""Words: captions, questions with answers, and reports, from what rows are known to show.

Every row is read once: its facts, of what was asked and of what pixels measure, wait on disk while
yes and no are balanced; then its statements are drawn by sample id and seed, and written with the
facts that they follow from. `check_words` computes all of them again from the rows.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal

from pydantic import Field

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.core.fields import CatalogFolders, ImageColumn, Images, Option, Options, Seed
from factory.core.files.new_folder import build_folder
from factory.core.hashing import hash_bytes
from factory.core.notes import tell
from factory.data.folders import FolderKind
from factory.data.images.image import Wanted
from factory.engine.dataset import Dataset
from factory.evaluate.image_sets import list_set
from factory.models.text_writer import TextWriter, Writer, WriterSettings
from factory.publish.annotations import describe_origin
from factory.publish.words.balance import Balance
from factory.publish.words.card import build_readme
from factory.publish.words.check import Checked, check_words
from factory.publish.words.formats import FORMATS, NEED_IMAGES
from factory.publish.words.gather import IMAGES, Gathered
from factory.publish.words.lexicon import Lexicon
from factory.publish.words.questions import Asker
from factory.publish.words.record import RECORD, Balanced, BlindGuess, Passed, WordsRecord
from factory.publish.words.telling import Teller, count_words

Format = Literal["vqa", "captions", "llava", "clip"]
TERMS = "pathology"
"""Catalog of the synonyms by which a reworded sentence may say a value."""

__all__ = ["Checked", "WordsOptions", "WordsRecord", "check_words", "write_words"]


class WordsOptions(Options):
    """What is said, and in which forms."""

    words: str = Field("he-words", description="Catalog entry of facts, rules and templates.")
    formats: Annotated[tuple[Format, ...], Option(takes="list")] = Field(
        ("vqa", "captions", "llava", "clip"),
        description="Of vqa, captions, llava, clip, with commas; default: all.",
    )
    captions: int = Field(3, ge=0, le=100, description="Of an image, at most.")
    seed: Seed = Field(0, description="Of all draws, with the sample id.")
    classes: str | None = Field(
        None, description="Catalog entry of classes whose titles are said; default: class names."
    )
    real: Images | None = Field(
        None, description="Real images whose quantiles are the cut points of levels."
    )
    image_column: ImageColumn = None
    writer: str | None = Field(
        None, description="Language model that rewords sentences: folder, or Hub id."
    )
    writer_revision: str | None = Field(None, description="Full commit of a Hub id.")
    writer_template: str | None = Field(
        None, description="What it is asked; {caption} is the sentence."
    )
    writer_max_tokens: int = Field(64, ge=1, le=512, description="Of a reworded sentence.")
    writer_license: str | None = Field(None, description="Its licence, as you read it.")
    catalogs: CatalogFolders = ()


def write_words(
    dataset: Dataset,
    out: Path,
    options: WordsOptions,
    say: Callable[[str], None] = lambda line: None,
) -> WordsRecord:
    """Writes what can be said of the accepted rows of a data set, and how it is known.

    Args:
        dataset: finished run, copy or merged set.
        out: new folder.
        options: what is said.
        say: called with one line at the start of each step.

    Raises:
        InputError: no row tells what it shows, `out` is in use, or options that do not fit.
        SourceError: an image or a mask that cannot be read.
        StoreError: a damaged file, or the disk is full.
    """
    catalogs = load_catalogs(options.catalogs)
    wanted = Wanted(image=options.image_column)
    real = None if options.real is None else list_set(options.real, columns=wanted)
    lexicon = Lexicon.open(catalogs, options.words, real)
    classes = None if options.classes is None else catalogs.find_classes(options.classes)
    writer = _open_writer(options)
    with (
        build_folder(out) as build,
        TemporaryFile(dir=build) as lines,
        TemporaryFile(dir=build) as pair_lines,
    ):
        say("reading rows")
        rows = Gathered(lines, pair_lines, Balance(options.seed))
        rows.read_all(dataset, lexicon, build, options.seed)
        lexicon = lexicon.with_classes(rows.class_names, classes)
        terms = catalogs.find_terms(TERMS) if writer is not None else None
        teller = Teller(build, rows, Asker(lexicon, options.seed, rows.balance, writer, terms))
        say("writing words")
        teller.write_images(options.captions)
        teller.write_pairs()
        for form in dict.fromkeys(options.formats):
            say(f"writing {form}")
            for each in FORMATS[form]:
                for split in sorted(rows.images):
                    each.write(build, split, teller.asker.ask_report)
        if not NEED_IMAGES & set(options.formats):
            shutil.rmtree(build / IMAGES)
        record = _build_record(dataset, options, teller)
        (build / RECORD).write_bytes(record.dump())
        (build / "README.md").write_text(build_readme(record), encoding="utf-8")
    _tell(record)
    return record


def _open_writer(options: WordsOptions) -> Writer | None:
    if options.writer is None:
        given = (options.writer_revision, options.writer_template, options.writer_license)
        if any(each is not None for each in given):
            raise InputError("--writer-...: of a language model: name it by --writer")
        return None
    told: dict[str, Any] = {"template": options.writer_template} if options.writer_template else {}
    if "{caption}" not in told.get("template", "{caption}"):
        raise InputError("--writer-template: lacks {caption}, the sentence that it rewords: add it")
    settings = WriterSettings(
        model=options.writer,
        revision=options.writer_revision,
        max_new_tokens=options.writer_max_tokens,
        **told,
    )
    return TextWriter(settings, Path.cwd())


def _build_record(dataset: Dataset, options: WordsOptions, teller: Teller) -> WordsRecord:
    rows, asker = teller.rows, teller.asker
    counts, blind = count_words(teller.build, sorted(rows.images))
    passed = rows.passed + asker.passed
    settings = options.model_dump(
        mode="json", exclude={"catalogs", "writer", "real", "image_column"}
    )
    settings["real"] = None if options.real is None else options.real.name
    writer = asker.writer
    told = None
    if writer is not None:
        terms = options.writer_license or "not stated"
        told = {**writer.describe(), "license": terms, "sentences": dict(asker.written)}
    values = {
        "origin": {**describe_origin(dataset), "recipe_sha256": dict(rows.recipes)},
        "settings": settings,
        "lexicon": asker.lexicon,
        "writer": told,
        "terms": None if asker.terms is None else TERMS,
        "formats": tuple(dict.fromkeys(options.formats)),
        "splits": counts,
        "left_out": dict(rows.left),
        "sources": rows.sources,
        "unfinished": dataset.unfinished if dataset.kind is FolderKind.RUN else "",
        "passed": tuple(
            Passed(about=about, reason=reason, count=count)
            for (about, reason), count in sorted(passed.items())
        ),
        "blind": tuple(BlindGuess(**each) for each in blind.count()),
        "balance": tuple(
            Balanced(split=split, about=about, value=value, **asked)
            for (split, about, value), asked in sorted(rows.balance.counts.items())
        ),
        "files": _hash_files(teller.build),
    }
    return WordsRecord(version=WordsRecord.newest, **values)


def _hash_files(build: Path) -> dict[str, str]:
    """Returns file -> sha256 of all but images, which are those of the rows."""
    found: dict[str, Any] = {}
    for path in sorted(each for each in build.rglob("*") if each.is_file()):
        name = path.relative_to(build).as_posix()
        if not name.startswith(f"{IMAGES}/"):
            found[name] = hash_bytes(path.read_bytes())
    return found


def _tell(record: WordsRecord) -> None:
    for reason, count in sorted(record.left_out.items()):
        tell(f"{count:,} rows are left out: {reason}")
    if record.unfinished:
        tell(
            f"the run is not finished ({record.unfinished}): these are the words of its rows so far"
        )
