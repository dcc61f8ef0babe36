"""Whether a run folder holds rows of a patient whom it forgot."""

from factory.core.errors import FactoryError
from factory.engine.continuing import read_outline
from factory.engine.dataset import DATA, REJECTED, Dataset
from factory.engine.forget.touched import find_touched, list_groups
from factory.engine.forgotten import FORGOTTEN, read_forgotten
from factory.engine.run_folder import RunFolder
from factory.publish.verify.findings import Report


def check_forgotten(dataset: Dataset, report: Report) -> None:
    """Looks for rows of forgotten patients in shards, parts and the data set itself.

    Raises:
        StoreError: the record of whom it forgot is damaged.
    """
    folder = RunFolder(dataset.url)
    forgotten = read_forgotten(folder)
    if forgotten.record is None:
        return
    report.checked["forgotten"] += 1
    if forgotten.half:
        report.fail("forgotten", FORGOTTEN, forgotten.half)
    try:
        found = find_touched(folder, read_outline(folder.require_run()), forgotten.matches)
    except FactoryError as error:
        report.fail("forgotten", ".factory/", str(error))
        return
    report.checked["forgotten"] += found.rows + found.kept
    for one in found.rounds:
        report.fail("forgotten", f".factory/{one.marker.data}", "holds rows of a forgotten patient")
    for name in found.parts:
        report.fail("forgotten", name, "holds rows of a forgotten patient")
    for name in (*dataset.list_tables(DATA), *dataset.list_tables(REJECTED)):
        for row in dataset.iterate_rows(name, ["sample_id", "provenance"]):
            report.checked["forgotten"] += 1
            if forgotten.matches(list_groups(row.values, row.place)):
                message = "comes from a forgotten patient"
                report.fail("forgotten", name, message, row.place, "provenance")
