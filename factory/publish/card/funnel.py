"""What was asked, made or judged, and kept: the table of the card, and its sentences."""

from collections.abc import Mapping
from typing import Any

from factory.core.markdown import escape, write_code
from factory.core.places import shorten_places
from factory.core.stats.intervals import compute_wilson
from factory.data.summary import SeriesSummary, StopPart, Summary
from factory.filters import needs_class
from factory.publish.card.text import join_blocks, join_table
from factory.recipe.stop import FIGURES, Figure

ONE_SIDED = 0.5
"""Share of a series that varies one real image from which people are told."""

_ALWAYS = "- an image with a value that is not finite (NaN) is never accepted, whatever the filters"


def write_funnel(summary: Summary) -> str:
    """Returns the section with counts per series and filter, shortfalls and rules."""
    filters = sorted({name for part in summary.series for name in part.rejected})
    columns, names = _choose_columns(summary)
    rows, notes = [], []
    for part in summary.series:
        counts = [part.rejected.get(name, 0) for name in filters]
        rows.append([escape(part.label), *(getattr(part, name) for name in columns), *counts])
        if part.short:
            notes.append(f"- **Shortfall**: {escape(describe_shortfall(part))}")
        if part.references:
            text = escape(describe_references(part))
            notes.append(f"- **{text}**" if is_one_sided(part) else f"- {text}")
        notes += [f"- {escape(part.label)}: {escape(line)}" for line in part.details or ()]
    notes += [f"- **Not judged**: {escape(text)}" for text in describe_unjudged(summary)]
    title = "judged" if summary.judged else "asked, made"
    return join_blocks(
        [
            f"## What was {title} and kept",
            join_table([*names, *(f"rejected: {escape(name)}" for name in filters)], rows),
            "" if summary.judged else _describe_filled(summary),
            "\n".join(notes),
            *(_write_shares(part) for part in summary.series if part.attributes),
            _describe_rest(summary),
            describe_early(summary),
            describe_stop_rule(summary),
            "\n".join(f"- {escape(text)}" for text in describe_ends(summary)),
            _describe_forgotten(summary),
            "\n".join([*_describe_filters(summary), _ALWAYS, *_describe_rules(summary)]),
            "\n".join(f"- **Cut**: {escape(text)}" for text in describe_cut(summary)),
            "\n".join(f"- **Not independent**: {escape(text)}" for text in summary.warnings),
        ]
    )


def _choose_columns(summary: Summary) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns counts of a series, and what the table calls them; images that were there are judged.

    Of these none was asked for or made, and only a pick leaves accepted ones over.
    """
    if not summary.judged:
        columns = ("asked", "accepted", "generated", "spare")
        return columns, ("condition", *columns)
    spare = ("spare",) if summary.pick else ()
    left = ("not picked",) if spare else ()
    return ("generated", "accepted", *spare), ("images", "judged", "accepted", *left)


def _describe_filled(summary: Summary) -> str:
    is_short = bool(summary.shortfalls)
    up_to = " up to where its series ended" if summary.wanted < summary.asked else ""
    return f"{'Not every' if is_short else 'Every'} request{up_to} was filled."


def _describe_forgotten(summary: Summary) -> str:
    """Says for how many patients rows were removed afterwards, and how many."""
    if summary.forgotten is None:
        return ""
    told = summary.forgotten
    return (
        f"On request {told.rows:,} candidates that images of {told.patients:,} patients or slides "
        "had touched were removed afterwards, and are not counted here; what was made instead "
        "passes these images over."
    )


def _describe_rest(summary: Summary) -> str:
    """Says where the images are that were not kept."""
    spare = sum(part.spare for part in summary.series)
    where = "rejected ones are in the configuration `rejected` with every score and the reason"
    if summary.judged:
        left = f"; so are {spare:,} accepted ones that were not picked" if spare else ""
        return f"{summary.generated:,} images were judged; {where}{left}."
    return (
        f"{summary.generated:,} candidates were generated; {where}; so are the {spare:,} spare "
        "ones, whose request an earlier attempt had filled or that were not picked."
    )


def describe_early(summary: Summary) -> str:
    """Says what was stopped part-way, and how often in error; nothing where it was not asked."""
    rule, parts = summary.early, [part.early for part in summary.series if part.early]
    if rule is None:
        return ""
    looked, stopped = sum(part.looked for part in parts), sum(part.stopped for part in parts)
    checked, passed = sum(part.checked for part in parts), sum(part.passed for part in parts)
    limits = [f"{name} below {_show(value)}" for name, value in rule["min"].items()]
    limits += [f"{name} above {_show(value)}" for name, value in rule["max"].items()]
    text = (
        f"Early rejection: after {rule['at']:.0%} of the steps {stopped + checked:,} of {looked:,} "
        f"tries looked hopeless (foreseen {' or '.join(limits)})."
    )
    if not stopped + checked:
        return text
    text += f" {stopped:,} were stopped there"
    if not checked:
        return f"{text}; none was finished to check, so how many in error is not known."
    share = compute_wilson(passed / checked, checked)
    return (
        f"{text}, and {checked:,}, drawn by their seeds, finished to check: {passed:,} of these "
        f"pass all filters. So {share.mean:.1%} of stops are in error ({share.low:.1%} to "
        f"{share.high:.1%}, Wilson 95 %), about {share.mean * stopped:,.0f} images "
        f"({share.low * stopped:,.0f} to {share.high * stopped:,.0f})."
    )


def describe_stop_rule(summary: Summary) -> str:
    """Says by which test series may end early; nothing where none may."""
    rule = summary.stop
    if rule is None:
        return ""
    figure = FIGURES[rule["when"]]
    series = "All series end early, at once," if figure.is_joint else "Series end early"
    return (
        f"{series} (`budget.stop`) where a block of {rule['every']:,} requests changes "
        f"{figure.name} by no more than {figure.write_tolerance(rule['tolerance'])}, up or down, "
        f"by the whole {rule['confidence']:.0%} interval of the change (features of "
        f"{write_code(shorten_places(rule['encoder']))}):"
    )


def describe_ends(summary: Summary) -> list[str]:
    """Says of each series that may end early where it did, and by which figures."""
    rule = summary.stop
    if rule is None:
        return []
    figure = FIGURES[rule["when"]]
    return [
        _describe_end(part, part.stop, figure) for part in summary.series if part.stop is not None
    ]


def _describe_end(part: SeriesSummary, stop: StopPart, figure: Figure) -> str:
    told = [each for each in stop.tests if each.change is not None]
    last = " (too few accepted images to test)" if stop.tests else ""
    if told:
        test = told[-1]
        last = f" (its last test, at {test.at:,}: {figure.write(test)})"
    if stop.at is None:
        tests = f"{len(stop.tests):,} tests" if len(stop.tests) != 1 else "one test"
        return f"{part.label}: went on to all {part.asked:,} through {tests}{last}"
    beyond = f"; {stop.beyond:,} candidates made beyond that are left out" if stop.beyond else ""
    return f"{part.label}: ended after {stop.at:,} of {part.asked:,} requests{last}{beyond}"


def _show(bound: Any) -> str:
    """Returns a number, or those of classes."""
    if not isinstance(bound, Mapping):
        return f"{bound:g}"
    return " and ".join(f"{value:g} for {escape(name)}" for name, value in bound.items())


def describe_cut(summary: Summary) -> list[str]:
    """Says for each tokenizer how many prompts it cut, and how many tokens it dropped."""
    return [
        f"{cut.candidates:,} of {summary.generated:,} candidates have a prompt that "
        f"{name} cut: {cut.tokens:,} tokens never reached the model"
        for name, cut in summary.cut_prompts.items()
    ]


def describe_shortfall(part: SeriesSummary) -> str:
    """Says by how much a series fell short, and the commonest reasons."""
    reasons = ", ".join(f"{reason} ({count})" for reason, count in list(part.reasons.items())[:3])
    why = f"; most candidates were rejected for: {reasons}" if reasons else ""
    return f"{part.label}: {part.short} short of {part.wanted}{_describe_bags(part)}{why}"


def _describe_bags(part: SeriesSummary) -> str:
    """Says which slides of a cohort lack patches."""
    bags = part.bags
    if bags is None or not bags.short:
        return ""
    listed = ", ".join(f"{slide} ({lacks} of {bags.size})" for slide, lacks in bags.lacking.items())
    more = bags.short - len(bags.lacking)
    beside = f" and {more:,} more" if more > 0 else ""
    lost = f"; {bags.unshown:,} of them lost all patches that show their label" * bool(bags.unshown)
    return f"; {bags.short:,} of {bags.slides:,} slides lack patches: {listed}{beside}{lost}"


def describe_unjudged(summary: Summary) -> list[str]:
    """Says which series have no class, while filters judge by class."""
    kinds = [each["kind"] for each in summary.filters if needs_class(each)]
    named = " and ".join(dict.fromkeys(kinds))
    if not kinds:
        return []
    return [
        f"{part.label}: has no class, so that {named} judged none of its {part.accepted} "
        "accepted images"
        for part in summary.series
        if not part.class_names
    ]


def _write_shares(part: SeriesSummary) -> str:
    """Returns how often each value was asked for, and how often accepted images say it."""
    rows = [
        [escape(name), escape(value), f"{share.asked:.1%}", f"{share.accepted:.1%}", share.images]
        for name, values in (part.attributes or {}).items()
        for value, share in values.items()
    ]
    head = ("attribute", "value", "asked", "accepted", "images")
    text = f"Asked and accepted of {escape(part.label)}, among those that say the attribute:"
    return join_blocks([text, join_table(head, rows)])


def is_one_sided(part: SeriesSummary) -> bool:
    """Whether most accepted images of a series vary one and the same real image."""
    return part.references is not None and part.references.largest_share > ONE_SIDED


def describe_references(part: SeriesSummary) -> str:
    """Says how many real images a series varies, and how evenly."""
    if part.references is None:
        return f"{part.label}: varies no real image"
    used, share = part.references.used, part.references.largest_share
    return f"{part.label}: varies {used} real images; one gives {share:.1%}"


def _describe_filters(summary: Summary) -> list[str]:
    lines = []
    for settings in summary.filters:
        named = {k: v for k, v in settings.items() if k != "kind" and v is not None}
        options = ", ".join(f"{key} {shorten_places(value)}" for key, value in named.items())
        lines.append(f"- filter {write_code(settings['kind'])}: {escape(options)}")
    return lines if lines or summary.dedup else ["**No filter was used.**"]


def _describe_rules(summary: Summary) -> list[str]:
    lines = []
    if summary.dedup:
        most = summary.dedup["max_similarity"]
        lines.append(
            f"- near-duplicates (`dedup`, similarity above {most:g}) of what an earlier request of "
            "the series gave are removed: rejected by `near_duplicate`"
        )
    if summary.accept:
        lines.append(f"- accepted where {write_code(summary.accept)}; other filters only score")
    pick = summary.pick
    if pick:
        how = (
            f"ranked by {write_code(pick['by'])}"
            if pick["keep"] == "best"
            else (
                f"chosen to cover the others by {pick['method'].replace('_', ' ')} on features of "
                f"{write_code(shorten_places(pick['encoder']))}"
            )
        )
        lines.append(f"- of each series, one of {pick['pool']:g} accepted images is kept, {how}")
    return lines
