"""Tries the contract on every pipeline of diffusers: `python -m tests.sweep [NAME ...]`.

Outcomes are written into docs/assets/pipelines.json as they come, which the page on pipelines shows
and the slow tests hold: those named, or all.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.contract import try_contract
from tests.pipelines import SETTINGS, explain_outside, list_pipelines, save_pipeline

RECORD = ROOT / "docs" / "assets" / "pipelines.json"
UNTRIED, OUTSIDE = "not tried", "outside"


def read_record() -> dict[str, Any]:
    """Returns what was recorded: the version of diffusers, and outcomes by pipeline."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def try_pipeline(name: str) -> str:
    """Returns `kept`, `kept, one image a call`, `outside: why`, or what is not kept."""
    with tempfile.TemporaryDirectory() as place:
        folder, scratch = Path(place, name), Path(place, "scratch")
        scratch.mkdir()
        outside = explain_outside(name)
        if outside:
            return f"{OUTSIDE}: {outside}"
        try:
            save_pipeline(name, folder)
        except KeyError as error:
            return f"{UNTRIED}: no tiny {error.args[0]}"
        outcome = try_contract(folder, scratch, SETTINGS.get(name, {}))
    if outcome.fault:
        return outcome.fault.replace(str(folder), name)
    return "kept, one image a call" if outcome.one_per_call else "kept"


def main(names: tuple[str, ...]) -> None:
    pipelines = list_pipelines()
    known = {key: value for key, value in read_record()["pipelines"].items() if key in pipelines}
    for name in names or pipelines:
        known[name] = try_pipeline(name)
        record = {"diffusers": version("diffusers"), "pipelines": dict(sorted(known.items()))}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
