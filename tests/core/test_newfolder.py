"""Commands keep out of folders that hold something else."""

import hashlib
import shutil

import pytest

from factory.core.errors import InputError
from factory.core.files.new_folder import refuse_foreign
from tests.running import call, run, write_recipe


def list_bytes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.stranger
def test_a_finished_data_set_is_not_written_into(tmp_path):
    recipe = write_recipe(tmp_path, conditions=[{"kind": "class", "per_class": {"a": 4, "b": 4}}])
    run(recipe, tmp_path / "run")
    before = list_bytes(tmp_path / "run")
    for words in (
        ("preview", recipe, "-n", 4),
        ("calibrate", recipe, "-n", 4),
        ("train", "classifier", "--data", tmp_path / "run", "--encoder", "color-texture"),
    ):
        result = call(*words, "--out", tmp_path / "run")
        assert result.exit_code == 2, (words, result.output)
        assert "holds something else" in result.output
        assert list_bytes(tmp_path / "run") == before
    own = tmp_path / "preview"
    assert [call("preview", recipe, "-n", 4, "--out", own).exit_code for _ in range(2)] == [0, 0]


@pytest.mark.stranger
def test_no_recipe_is_written_into_a_data_set(tmp_path):
    recipe = write_recipe(tmp_path, conditions=[{"kind": "class", "per_class": {"a": 4, "b": 4}}])
    run(recipe, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore=shutil.ignore_patterns(".factory"))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "merge.json").write_text("{}")
    for name in ("run", "copy", "merged"):
        folder = tmp_path / name
        before = list_bytes(folder)
        for words in (
            ("init", folder),
            ("init", folder / "deep" / "er"),
            ("recipes", "copy", "quickstart", folder / "mine.yaml"),
        ):
            result = call(*words)
            assert result.exit_code == 2, (words, result.output)
            assert "lies in a data set or the folder of a run" in result.output
        assert list_bytes(folder) == before
        assert not (folder / "deep").exists()
    assert call("init", tmp_path / "beside").exit_code == 0


def test_what_counts_as_foreign(tmp_path):
    refuse_foreign(tmp_path / "new", "a")
    (tmp_path / "a").write_text("")
    (tmp_path / ".DS_Store").write_text("")
    refuse_foreign(tmp_path, "a")
    with pytest.raises(InputError, match="is a file"):
        refuse_foreign(tmp_path / "a", "a")
    (tmp_path / ".factory").mkdir()
    with pytest.raises(InputError, match="holds something else"):
        refuse_foreign(tmp_path, "a")
