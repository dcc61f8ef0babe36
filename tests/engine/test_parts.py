"""A killed shard goes on where its last part ended, to the very same bytes; a word in good time."""

import json
import signal

import pytest

from factory.cli import main
from factory.cli.tally import Tally
from factory.data.records import Progress, Shard
from factory.engine import parts
from factory.engine.executors import Outcome
from factory.engine.run_folder import WORK
from factory.engine.task import Task
from factory.models.generators.families.fake import FakeGenerator
from tests import forked
from tests.killer import die
from tests.running import DEDUP, FILTERS, call, list_identities, read_rows, run, write_recipe

RARE = {
    "conditions": [{"kind": "class", "per_class": {"normal": 12}}],
    "filters": [{"kind": "finite", "min_contrast": 0.1475}, *FILTERS[1:]],
    "dedup": DEDUP,
    "budget": {"attempts": 32},
    "output": {"shard_size": 12, "keep_rejected": "images"},
}
"""One shard of a class of which about one in thirty tries is accepted."""


def run_and_die(batches, words):
    """Runs a command that dies when it has generated so many batches; a part after each."""
    left, generate = batches, FakeGenerator.generate

    def generate_or_die(self, jobs):
        nonlocal left
        if not left:
            die()
        left -= 1
        return generate(self, jobs)

    parts.PART_SECONDS, FakeGenerator.generate = 0.0, generate_or_die
    main(words)


def read_shards(out):
    """Returns the data objects by name; they are named for their content."""
    folder = out / WORK / "shards"
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def list_parts(out):
    return sorted((out / WORK / "parts").glob("*.json"))


@pytest.fixture
def often(monkeypatch):
    """A part is committed after every batch."""
    monkeypatch.setattr(parts, "PART_SECONDS", 0.0)


@pytest.fixture
def counted(monkeypatch):
    """Counts batches, and stops like Ctrl-C before the one of a number."""
    generate, made = FakeGenerator.generate, {"batches": 0, "stop": None, "error": None}

    def generate_or_stop(self, jobs):
        if made["stop"] is not None and made["batches"] >= made["stop"]:
            raise made["error"] or KeyboardInterrupt
        made["batches"] += 1
        return generate(self, jobs)

    monkeypatch.setattr(FakeGenerator, "generate", generate_or_stop)
    return made


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(folder, **RARE)
    run(recipe, folder / "run")
    return recipe, folder / "run"


@pytest.mark.stranger
def test_a_shard_killed_again_and_again_goes_on(uninterrupted, tmp_path):
    recipe, expected = uninterrupted
    out, rows = tmp_path / "run", [0]
    for batches in (9, 5, 7):
        killed = forked.start(run_and_die, batches, ["run", str(recipe), "--out", str(out)])
        assert forked.wait(killed) == -signal.SIGKILL
        rows.append(sum(json.loads(path.read_text())["rows"] for path in list_parts(out)))
        assert rows[-1] - rows[-2] >= 4 * (batches - 2)
    assert not list((out / WORK).glob("shards/*"))
    answer = call("run", recipe, "--out", out)
    assert answer.exit_code == 1, answer.output  # a class so rare falls short
    assert list_identities(out) == list_identities(expected)
    assert read_shards(out) == read_shards(expected)
    assert not (out / WORK / "parts").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"filters": [], "dedup": {"max_similarity": 0.2}, "budget": {"attempts": 6}},
        pytest.param(RARE, marks=pytest.mark.slow),
        pytest.param({"pick": {"keep": "diverse", "pool": 1.5}}, marks=pytest.mark.slow),
        pytest.param(
            {"output": {"shard_size": 23, "keep_rejected": "scores", "image_format": "webp"}},
            marks=pytest.mark.slow,
        ),
        pytest.param({"generator": {"batch_size": 3}}, marks=pytest.mark.slow),
    ],
    ids=["common", "rounds", "rare", "pick", "scores only", "other batches"],
)
def test_stopped_at_every_few_batches_gives_the_same_bytes(tmp_path, often, counted, changes):
    recipe = write_recipe(tmp_path, **changes)
    run(recipe, tmp_path / "whole")
    whole, stops = counted["batches"], 0
    counted["batches"] = 0
    while True:
        counted["stop"] = counted["batches"] + max(3, whole // 4)
        try:
            run(recipe, tmp_path / "run")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    assert counted["batches"] <= whole + 2 * stops  # the batch being judged, and the one drawn
    if "r1" not in str(list(read_shards(tmp_path / "whole"))):  # rounds may fall otherwise
        assert read_shards(tmp_path / "run") == read_shards(tmp_path / "whole")
    assert list_identities(tmp_path / "run") == list_identities(tmp_path / "whole")
    assert not (tmp_path / "run" / WORK / "parts").exists()


def test_a_shard_that_is_tried_again_goes_on_from_its_parts(
    uninterrupted, tmp_path, often, counted, monkeypatch
):
    """As a dead worker's shard on another one, or after an error."""
    recipe, expected = uninterrupted
    counted["stop"], counted["error"] = 9, RuntimeError("cosmic ray")

    init, outcomes = parts.Parts.__init__, []

    def begin(self, *arguments):
        init(self, *arguments)
        if self._count:
            counted["stop"] = None

    monkeypatch.setattr(parts.Parts, "__init__", begin)
    run(recipe, tmp_path / "run", notify=outcomes.append)
    assert [outcome.error for outcome in outcomes] == [None]
    assert counted["batches"] <= 9 + len(read_rows(expected, "rejected")) // 4 - 6
    assert read_shards(tmp_path / "run") == read_shards(expected)


def damage_data(out, index):
    path = next((out / WORK / "parts").glob(f"*p{index:04d}-*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])


def drop_data(out, index):
    next((out / WORK / "parts").glob(f"*p{index:04d}-*.parquet")).unlink()


def damage_marker(out, index):
    list_parts(out)[index].write_text('{"run": ')


def change(**fields):
    def edit(out, index):
        path = list_parts(out)[index]
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


@pytest.mark.parametrize(
    ("damage", "words", "index"),
    [
        (damage_data, "its bytes changed", 3),
        (drop_data, "passed over", 0),
        (damage_marker, "damaged", 3),
        pytest.param(
            change(worker="0" * 16), "worker is '0000000000000000'", 0, marks=pytest.mark.slow
        ),
        pytest.param(damage_data, "its bytes changed", 0, marks=pytest.mark.slow),
        pytest.param(change(run="0" * 16), "run is", 3, marks=pytest.mark.slow),
        pytest.param(change(shard="other"), "shard is", 0, marks=pytest.mark.slow),
        pytest.param(change(round=2), "round is 2", 3, marks=pytest.mark.slow),
    ],
)
def test_a_part_that_does_not_fit_is_passed_over(
    uninterrupted, tmp_path, often, counted, damage, words, index
):
    recipe, expected = uninterrupted
    counted["stop"] = 9
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run")
    damage(tmp_path / "run", index)
    counted["stop"] = None
    answer = call("run", recipe, "--out", tmp_path / "run")
    assert f"p{index:04d}.json: " in answer.stderr
    assert words in answer.stderr
    assert answer.stderr.count("made again") == 1
    assert read_shards(tmp_path / "run") == read_shards(expected)


def test_parts_are_of_use_after_the_run_has_grown(uninterrupted, tmp_path, often, counted):
    recipe, _ = uninterrupted
    more = write_recipe(tmp_path, **{**RARE, "budget": {"attempts": 40}})
    counted["stop"] = 9
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run")
    counted["stop"], counted["batches"] = None, 0
    run(more, tmp_path / "whole")
    whole, counted["batches"] = counted["batches"], 0
    run(more, tmp_path / "run", extend=True)
    assert counted["batches"] <= whole - 6
    assert read_shards(tmp_path / "run") == read_shards(tmp_path / "whole")


def test_no_part_is_written_of_a_shard_that_is_filled_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(parts.FileStore, "write", parts.FileStore.write)
    run(write_recipe(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run" / WORK / "parts").exists()


def test_what_is_recalled_does_not_count_as_made():
    clock = iter(range(100))
    tally = Tally({"s": 10}, 8, clock=lambda: next(clock))
    shard = Shard("s", 0, 10)
    tally.report(Progress(shard, 0, 10, 40, 5, 0, recalled=40))
    assert tally.estimate_left() is None
    tally.report(Progress(shard, 0, 10, 44, 6, 0, recalled=40))
    assert tally._count_made() == 4
    marker = type("M", (), {"series": "s", "asked": 10, "filled": 10, "generated": 60})
    tally.notify(Outcome(Task(shard), marker))
    assert tally.made == 20


@pytest.mark.stranger
def test_a_class_that_will_not_fill_is_told_early(tmp_path, capfd):
    counts = {"normal": 40, "tumor": 6}
    recipe = write_recipe(
        tmp_path, **{**RARE, "conditions": [{"kind": "class", "per_class": counts}]}
    )
    answer = call("run", recipe, "--out", tmp_path / "run")
    lines = answer.stderr.splitlines()
    told = [line for line in lines if "tries accepted; at this rate" in line]
    assert len(told) == 1
    assert told[0].startswith("normal: ")
    assert " of 40: raise budget.attempts" in told[0]
    assert lines.index(told[0]) < lines.index("finalizing")


@pytest.mark.parametrize(
    ("filled", "tried", "attempts", "expected"),
    [
        (0, 29, 8, None),  # too few to say
        (0, 30, 8, 0),
        (3, 200, 8, 5),
        (3, 200, 24, 12),
        (3, 200, 400, None),
        (20, 60, 8, None),
        (20, 60, 2, 22),
    ],
)
def test_what_is_foretold(filled, tried, attempts, expected):
    tally = Tally({"s": 40}, attempts)
    tally.report(Progress(Shard("s", 0, 40), 0, 40, tried, filled, 0))
    assert tally.foretell("s") == expected
