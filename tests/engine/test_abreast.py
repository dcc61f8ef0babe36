"""One worker fills shards abreast: what waits for verdicts or its commit holds up no sampling."""

import threading
from concurrent.futures import CancelledError

import pytest
import torch
from threadpoolctl import threadpool_info

from factory.data.records import Shard
from factory.engine.executors import ray as ray_actors
from factory.engine.executors.abreast import Abreast
from factory.engine.executors.actor import RayWorker
from factory.engine.executors.base import start_worker
from factory.engine.plan import build_plan
from factory.engine.run_folder import RunFolder
from factory.engine.shard import Worker
from factory.engine.task import Order, Task
from factory.recipe.file import load_recipe
from factory.recipe.recipe import Workers
from tests.running import list_identities, run, write_recipe

PATIENCE = 30.0


@pytest.fixture
def sampled(monkeypatch):
    """The (shard, thread) of each batch that was sampled, and an event of the second shard's."""
    made, generate, second = [], Worker.generate, threading.Event()

    def note(self, jobs):
        made.append((jobs[0].request.series, jobs[0].request.index // 8, threading.get_ident()))
        if len({each[:2] for each in made}) > 1:
            second.set()
        return generate(self, jobs)

    monkeypatch.setattr(Worker, "generate", note)
    return made, second


def write(folder, **changes):
    conditions = [{"kind": "class", "per_class": {"normal": 24, "tumor": 16}}]
    return write_recipe(
        folder, **{"conditions": conditions, "output": {"shard_size": 8}, **changes}
    )


def test_the_next_shard_is_sampled_while_one_is_committed(tmp_path, monkeypatch, sampled):
    """With one shard at a time the first commit would wait for ever."""
    made, second = sampled
    run(write(tmp_path), tmp_path / "whole")
    made.clear()
    second.clear()
    commit, threads = RunFolder.commit, set()

    def wait_for_next(self, *given):
        threads.add(threading.get_ident())
        assert second.wait(PATIENCE)
        return commit(self, *given)

    monkeypatch.setattr(RunFolder, "commit", wait_for_next)
    assert run(write(tmp_path), tmp_path / "run").exit_code == 0
    assert {each[2] for each in made} == {threading.get_ident()}  # signals find the sampling there
    assert threading.get_ident() not in threads
    assert list_identities(tmp_path / "run") == list_identities(tmp_path / "whole")


def test_a_shard_that_could_go_on_goes_first(tmp_path, sampled):
    """No other is begun while the oldest has a full batch to make."""
    run(write(tmp_path, filters=[], dedup=None), tmp_path / "run")
    shards = [each[:2] for each in sampled[0]]
    assert shards == sorted(shards, key=shards.index)  # one after the other
    assert len(shards) == 2 * len(set(shards))


def test_a_shard_that_fails_holds_up_no_other(tmp_path, monkeypatch):
    failing, steps = [0], Worker.steps

    def fail(self, task, report, drain, helper):
        if task.shard.start == 8 and failing[0] < 2:
            failing[0] += 1
            raise OSError("a lens fell off")
        return (yield from steps(self, task, report, drain, helper))

    monkeypatch.setattr(Worker, "steps", fail)
    assert run(write(tmp_path), tmp_path / "run").exit_code == 0
    assert failing == [2]


def open_worker(recipe, out):
    """Returns a worker of a recipe, and its tasks."""
    loaded = load_recipe(recipe)
    plan, order = (
        build_plan(loaded.recipe, loaded.session),
        Order(loaded.recipe, loaded.session, out),
    )
    tasks = [Task(each).ask(plan, loaded.recipe.budget.attempts) for each in plan.iterate_shards()]
    return order, tasks


def test_an_actor_answers_each_call_with_its_shard(tmp_path):
    """Two calls at a time, in threads of their own, as Ray makes them."""
    order, tasks = open_worker(write(tmp_path), str(tmp_path / "run"))
    actor, found = RayWorker(order, None, 1), {}
    assert actor.run(tasks[0]) == (None, "worker was not started", False)
    assert actor.start() == ("", 0)

    def call(mine):
        found.update({task.shard.id: actor.run(task) for task in mine})

    calls = [threading.Thread(target=call, args=(mine,)) for mine in (tasks[::2], tasks[1::2])]
    for each in calls:
        each.start()
    for each in calls:
        each.join(PATIENCE)
    assert {name: marker.shard for name, (marker, *_) in found.items()} == {
        task.shard.id: task.shard.id for task in tasks
    }


def test_torch_has_as_many_threads_as_were_set_where_it_samples_and_judges(tmp_path, monkeypatch):
    """What OpenMP was told in the thread that loads the models holds in no other by itself."""
    order, tasks = open_worker(write(tmp_path), str(tmp_path / "run"))
    before, found = torch.get_num_threads(), {}
    actor = RayWorker(order, None, before + 1)

    def note(name):
        act = getattr(Worker, name)

        def counting(*given):
            pools = [each for each in threadpool_info() if each["user_api"] == "openmp"]
            found[name] = {p["num_threads"] for p in pools if "torch" in p["filepath"]}
            return act(*given)

        monkeypatch.setattr(Worker, name, counting)

    note("generate")
    note("judge")
    try:
        starting = threading.Thread(target=actor.start)
        starting.start()
        starting.join(PATIENCE)
        assert actor.run(tasks[0])[1:] == ("", False)
    finally:
        torch.set_num_threads(before)
    assert found == {"generate": {before + 1}, "judge": {before + 1}}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_ends_where_its_actor_breaks(tmp_path, monkeypatch):
    order, tasks = open_worker(write(tmp_path), str(tmp_path / "run"))
    actor = RayWorker(order, None, 1)
    actor.start()

    def end(self, each):
        raise SystemExit(7)

    monkeypatch.setattr(Abreast, "_advance", end)
    with pytest.raises(CancelledError):
        actor.run(tasks[0])
    assert actor.run(tasks[1]) == (None, "worker was not started", False)


def test_what_budget_stop_may_end_is_not_begun_ahead(tmp_path):
    order, _ = open_worker(write(tmp_path), str(tmp_path / "run"))
    worker = start_worker(order, None)
    assert Abreast(worker, print, None).most == 2
    budget = worker.recipe.budget.model_copy(update={"stop": object()})
    worker.recipe = worker.recipe.model_copy(update={"budget": budget})
    assert Abreast(worker, print, None).most == 1


class Counted:
    """A ledger of one failure after the other."""

    done = 0

    def __init__(self):
        self.failed = []

    def record_failure(self, task, why):
        self.failed.append(task)
        return True


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_shards_at_work_neither_is_blamed_and_each_is_tried_alone(count, monkeypatch):
    tasks = [Task(Shard("a", start, start + 8)) for start in (0, 8, 16)]
    ledger, actors = Counted(), ray_actors._Actors(None, None, Workers(), 0.0)
    actors.busy = {"dead": dict(enumerate(tasks[:count])), "idle": {}, "other": {7: tasks[2]}}
    take = actors.busy.pop
    monkeypatch.setattr(ray_actors._Actors, "remove", lambda self, dead: [*take(dead).values()])
    round_ = ray_actors._Round(actors, ledger, print, ray_actors.deque())
    round_.bury("dead", "killed")
    assert [*round_.again] == tasks[:count]
    assert ledger.failed == (tasks[:1] if count == 1 else [])
    assert actors.may_take("idle", tasks[0])
    assert actors.may_take("other", tasks[0]) == (count == 1)
    actors.busy["idle"] = {8: tasks[0]}
    assert ("idle" in actors.list_free()) == (count == 1)
    assert "other" in actors.list_free()
