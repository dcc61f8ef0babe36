"""The four tiers in one table: pixel fidelity, semantic consistency, diagnostic utility, control.

The tiers are UniPath's; memorisation stands beside them. The table holds nothing of its own: each
row names the part, and so the result file, that it comes from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from factory.evaluate.fewshot.labels import SHOTS, TEST
from factory.evaluate.measured import join_data
from factory.evaluate.names import name_measure

TIERS = ("pixel fidelity", "semantic consistency", "diagnostic utility", "attribute control")
COPIES = "memorisation"
PARTS = ("fidelity", "copies", "fewshot", "retrieval", "control")
"""Evaluations that fill the table, in the order in which they run."""
FIDELITY_SHOWN = ("fd", "kid", "precision", "recall")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        tier: of TIERS, or COPIES.
        measure: what is measured, with the encoder or arm.
        value: the figure; None where it was refused.
        low: end of the 95 % interval, if there is one.
        high: the other end.
        beside: what to read it by: the floor, chance, or the control arm, in words.
        marks: what weakens it, e.g. CIRCULAR, LABELS SEEN.
        part: of PARTS, the result file.
    """

    tier: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    beside: str
    marks: tuple[str, ...]
    part: str


def build_tiers(
    results: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the table as plain data.

    Args:
        results: part -> what its evaluation returned.
        missing: part -> why it was not measured.
        settings: where the real sets lie.
    """
    readers = {
        "fidelity": _read_fidelity,
        "copies": _read_copies,
        "fewshot": _read_fewshot,
        "retrieval": _read_retrieval,
        "control": _read_control,
    }
    rows = [row for part in PARTS if part in results for row in readers[part](results[part])]
    tiers = {
        tier: {row.measure: _describe(row) for row in rows if row.tier == tier}
        for tier in (*TIERS, COPIES)
    }
    return {
        "kind": "tiers",
        "data": join_data(results.values()),
        "settings": dict(settings or {}),
        "tiers": tiers,
        "not_measured": dict(missing),
    }


def list_rows(table: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Returns tier, measure, value with interval, what to read it by, and marks, as text.

    Args:
        table: what `build_tiers` returned; a tier of which nothing was measured has a row too.
    """
    rows = []
    for tier, measures in table["tiers"].items():
        if not measures:
            rows.append((tier, "not measured", "", "", ""))
        for measure, found in measures.items():
            value = "refused" if found["value"] is None else f"{found['value']:.3g}"
            if found["low"] is not None:
                value += f" [{found['low']:.3g}, {found['high']:.3g}]"
            rows.append((tier, measure, value, found["beside"], ", ".join(found["marks"])))
    return rows


def _describe(row: Row) -> dict[str, Any]:
    found = asdict(row)
    return {name: found[name] for name in ("value", "low", "high", "beside", "marks", "part")}


def _make(
    tier: str,
    measure: str,
    found: Mapping[str, Any],
    beside: str,
    part: str,
    marks: tuple[str, ...] = (),
) -> Row:
    value = found.get("mean", found.get("value"))
    return Row(tier, measure, value, found.get("low"), found.get("high"), beside, marks, part)


def _read_fidelity(result: Mapping[str, Any]) -> Iterator[Row]:
    for figure in result["figures"]:
        if figure["class"] is not None:
            continue
        spec = figure["encoder"]["spec"]
        floor = figure["floor"]
        for name in FIDELITY_SHOWN:
            metric = figure["metrics"][name]
            near = None if floor is None else floor["metrics"][name].get("value")
            beside = "no floor" if near is None else f"real held back: {near:.3g}"
            marks = ("CIRCULAR",) if figure["circular"] else ()
            marks += (metric["refused"],) if metric.get("refused") else ()
            marks += (metric["flag"],) if metric.get("flag") else ()
            counts = f"{figure['n_synthetic']:,} against {figure['n_real']:,}"
            measure = f"{name_measure(name)} ({spec}, {counts})"
            yield _make(TIERS[0], measure, metric, beside, "fidelity", marks)


def _read_copies(result: Mapping[str, Any]) -> Iterator[Row]:
    authpct = result["authpct"]
    beside = f"{result['usual']}: {authpct['usual']['value']:.3g}"
    scope = f"AuthPct, % ({result['encoder']['id']}, {result['scope']})"
    yield _make(COPIES, scope, authpct["synthetic"], beside, "copies")
    yield _make(COPIES, "C_T (below 0: copies)", result["c_t"], "0", "copies")


def _read_fewshot(result: Mapping[str, Any]) -> Iterator[Row]:
    settings, paired = result["settings"], result["paired"]
    for kind, found in result["label_fidelity"].items():
        if kind not in (TEST, SHOTS):
            measure = f"{kind}: share that a classifier of real images takes for its class"
            real = {name: result["label_fidelity"].get(name) for name in (SHOTS, TEST)}
            beside = ", ".join(
                f"{name}: {each['balanced_accuracy']['mean']:.3g}"
                for name, each in real.items()
                if each
            )
            marks = tuple(result["marks"].get(kind, ()))
            yield _make(TIERS[1], measure, found["balanced_accuracy"], beside, "fewshot", marks)
    for name in ("real+synthetic - real", "real+synthetic - real+classical"):
        if name in paired:
            measure = (
                f"balanced accuracy, {name} ({settings['shots']} shots, "
                f"{len(settings['seeds'])} draws, {settings['steps']} steps)"
            )
            base = name.rpartition(" - ")[2]
            accuracy = result["arms"][base]["balanced_accuracy"]["mean"]
            marks = tuple(result["marks"].get("real+synthetic", ()))
            yield _make(
                TIERS[2], measure, paired[name], f"{base}: {accuracy:.3g}", "fewshot", marks
            )


def _read_retrieval(result: Mapping[str, Any]) -> Iterator[Row]:
    for metric in ("i2t_r@10", "t2i_r@10"):
        for arm in ("synthetic", "shuffled"):
            if arm in result["arms"]:
                measure = f"{name_measure(metric)} of {arm} ({result['settings']['model']})"
                beside = f"chance: {result['chance'][metric]:.3g}"
                yield _make(TIERS[1], measure, result["arms"][arm][metric], beside, "retrieval")


def _read_control(result: Mapping[str, Any]) -> Iterator[Row]:
    for name, found in result["attributes"].items():
        ignored = found["if_ignored"]["same_bin"]
        measure = f"Spearman rho of {name} ({found['images']:,} images)"
        same = found["same_bin"]["mean"]
        beside = f"same bin {same:.2f}, if ignored {ignored:.2f}"
        marks = () if found["exceeds_chance"] else ("NOT ABOVE CHANCE",)
        yield _make(TIERS[3], measure, found["rho"], beside, "control", marks)
