"""The loop that all trainings share: checkpoints, log, Ctrl-C, averages."""

import json
import signal

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from factory.core.errors import MismatchError, StoreError, TrainingError
from factory.train.ahead import Ahead
from factory.train.loop import Loop, Trainer, compute_warmup, open_folder, update_average


class Line(Trainer):
    """Fits a line; presses Ctrl-C in the step `stop`."""

    steps, log_every, validate_every, checkpoint_every = 10, 4, 5, 3
    accumulate, max_norm, ema_decay = 2, 1.0, 0.9

    def __init__(self, stop=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = torch.nn.Linear(2, 1)
        self.kept = (torch.nn.Linear(2, 1),)
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        self.learning_rate, self.seen, self.stop = 0.1, [], stop

    def compute_rate(self, step):
        return compute_warmup(step, 4)

    def compute_loss(self, network, step, turn):
        if self.stop and (step, turn) == (self.stop, 0):
            signal.raise_signal(signal.SIGINT)
        self.seen.append((step, turn))
        draw = torch.Generator().manual_seed(10 * step + turn)
        rows = torch.randn(8, 2, generator=draw)
        return (network(rows)[:, 0] - rows.sum(1)).square().mean()

    def validate(self, average, step, loss):
        self.state = {"best_step": step}
        with torch.no_grad():
            self.kept[0].weight.copy_(average.weight)
        return {"measured": loss}


def train(folder, trainer=None, described=None):
    trainer = trainer or Line()
    loop = Loop(trainer, folder, described or {"seed": 1})
    loop.run(lambda *state: None)
    return trainer, loop


def read_log(folder):
    return [
        {**json.loads(line), "time": 0} for line in (folder / "log.jsonl").read_text().splitlines()
    ]


def assert_same(one, other):
    pairs = zip((one[0].network, one[1].average, one[0].kept[0]),
                (other[0].network, other[1].average, other[0].kept[0]), strict=True)  # fmt: skip
    for mine, theirs in pairs:
        assert torch.equal(mine.weight, theirs.weight)
    assert one[0].state == other[0].state


def test_ctrl_c_ends_after_the_step_and_the_rest_gives_the_same(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    stopped = Line(stop=6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stopped)
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.seen[-1] == (6, 1)  # the step was ended
    assert [path.name for path in tmp_path.glob("parts/checkpoint-*")] == ["checkpoint-00000007"]
    parts = train(tmp_path / "parts")
    assert parts[0].seen[0] == (7, 0)
    assert_same(whole, parts)
    log = read_log(tmp_path / "whole")
    assert log == read_log(tmp_path / "parts")
    found = [(row["step"], next(name for name in row if name != "step")) for row in log]
    assert found == [(4, "loss"), (5, "measured"), (8, "loss"), (10, "loss"), (10, "measured")]
    done = train(tmp_path / "parts")
    assert done[0].seen == [] and done[1].step == 10
    assert_same(whole, done)


def test_a_kill_while_a_checkpoint_is_written_loses_that_one_only(tmp_path, monkeypatch):
    """Of the kinds of rest: a half-written checkpoint, two whole ones, a log that ran on."""
    whole = train(tmp_path)
    again = tmp_path / "again"
    again.mkdir()

    def die(path):
        raise OSError("killed")

    monkeypatch.setattr("factory.train.loop.shutil.rmtree", lambda path, **rest: None)
    monkeypatch.setattr("pathlib.Path.rename", lambda *names: die(names))
    with pytest.raises(OSError, match="killed"):
        train(again)
    monkeypatch.undo()
    assert [path.name for path in again.glob("checkpoint-*")] == []
    with (again / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1}\n{"step": 9, "lo')
    monkeypatch.setattr("factory.train.loop.shutil.rmtree", lambda path, **rest: None)
    with pytest.raises(KeyboardInterrupt):
        train(again, Line(stop=6))
    monkeypatch.undo()
    assert len(list(again.glob("checkpoint-*"))) == 3  # of 3, 6 and 7: the last counts
    parts = train(again)
    assert parts[0].seen[0] == (7, 0)
    assert_same(whole, parts)
    assert read_log(tmp_path) == read_log(again)
    assert [path.name for path in again.glob("checkpoint-*")] == ["checkpoint-00000010"]


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left"), RuntimeError("unexpected pos")]
)
def test_a_full_disk_is_told_and_the_training_goes_on_from_the_checkpoint_before(
    error, tmp_path, monkeypatch
):
    write = Accelerator.save_state

    def fill(accelerator, folder):
        write(accelerator, folder)
        if list(tmp_path.glob("checkpoint-*")):
            raise error

    monkeypatch.setattr(Accelerator, "save_state", fill)
    with pytest.raises(StoreError, match=f"step 6 can be written .*{error}"):
        train(tmp_path)
    monkeypatch.undo()
    assert train(tmp_path)[0].seen[0] == (3, 0)


def test_checkpoints_of_another_recipe_or_an_earlier_version_are_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(MismatchError, match="seed: 1 -> 2"):
        train(tmp_path, described={"seed": 2})
    old = open_folder(tmp_path / "old")
    (old / "checkpoint.pt").write_bytes(b"of an earlier version")
    with pytest.raises(MismatchError, match=r"checkpoint\.pt: of an earlier version.*--out"):
        train(old)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    trainer = Line()
    trainer.learning_rate = float("inf")
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan: lower the learning rate"):
        train(tmp_path, trainer)


def test_without_a_folder_nothing_is_written_and_without_decay_nothing_averaged(tmp_path):
    trainer = Line()
    trainer.steps, trainer.accumulate, trainer.ema_decay = 4, 1, None
    loop = Loop(trainer)
    loop.run(lambda *state: None)
    assert loop.average is trainer.network and list(tmp_path.iterdir()) == []
    assert trainer.seen == [(step, 0) for step in range(4)]


def test_the_average_moves_weights_and_statistics_of_norms():
    mine, theirs = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    theirs.running_mean.fill_(8)
    theirs.num_batches_tracked.fill_(3)
    with torch.no_grad():
        theirs.weight.fill_(3)
    update_average(mine, theirs, 0.75, 1000)
    assert (mine.weight.item(), mine.running_mean.item()) == (1.5, 2)
    assert mine.num_batches_tracked.item() == 3
    update_average(mine, theirs, 0.75, 2)  # warming up: (1 + 2) / (10 + 2)
    assert mine.weight.item() == pytest.approx(0.25 * 1.5 + 0.75 * 3)


def test_batches_are_drawn_ahead_of_a_device_that_is_no_cpu_and_come_in_order():
    drawn = []

    def draw(step, turn):
        drawn.append((step, turn))
        return step, turn

    ahead = Ahead(draw, 2, torch.device("meta"))
    keys = [(step, turn) for step in range(5, 9) for turn in (0, 1)]
    assert [ahead.take(*key) for key in keys] == keys
    assert ahead.take(20, 1) == (20, 1)  # a training that goes on elsewhere
    assert set(drawn) >= {*keys, (9, 0)}
    assert len(drawn) == len(set(drawn))  # none of them twice

    plain = Ahead(draw, 2, torch.device("cpu"))
    drawn.clear()
    assert plain.take(3, 1) == (3, 1)
    assert drawn == [(3, 1)]  # a CPU draws what it is asked for


def test_a_batch_that_cannot_be_drawn_ahead_says_so_when_its_turn_comes():
    def draw(step, turn):
        if step == 2:
            raise ValueError("no such view")
        return step

    ahead = Ahead(draw, 1, torch.device("meta"))
    assert [ahead.take(step, 0) for step in (0, 1)] == [0, 1]
    with pytest.raises(ValueError, match="no such view"):
        ahead.take(2, 0)
