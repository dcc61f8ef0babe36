"""The shipped recipes of embeddings and of RNA run offline, on what their comments say to bring."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests import ASSETS, ROOT
from tests.running import call, read_rows, run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for name in ("embedding", "rna"):
        shutil.copy(ROOT / "recipes" / f"{name}.yaml", tmp_path)
    return tmp_path


def test_rna(folder: Path) -> None:
    counts = pd.read_csv(ASSETS / "expression" / "her2st.csv", index_col=0).T
    counts.insert(0, "patient", [str(name)[0] for name in counts.index])
    counts.insert(1, "tissue", "tumor")
    counts.rename_axis("spot").to_csv(folder / "data" / "counts.csv")
    words = ["--sets", "hallmark", "--min-coverage", "0.2", "--keep", "patient,tissue"]
    table, out = str(folder / "data" / "counts.csv"), str(folder / "data" / "scores.parquet")
    told = call("expression", "score", table, *words, "--out", out)
    assert told.exit_code == 0, told.output
    assert run(folder / "rna.yaml", folder / "run").exit_code == 0
    rows = read_rows(folder / "run")
    assert len(rows) == 16 and {len(row["vector"]) for row in rows} == {50}
    assert {row["class_name"] for row in rows} == {"tumor"}


def test_embedding(folder: Path) -> None:
    for path in sorted((ASSETS / "pcam" / "train").glob("*/*"))[::6]:
        target = folder / "data" / "patches" / "train" / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shots = len(list((folder / "data").rglob("*.webp")))
    assert shots > 1 and run(folder / "embedding.yaml", folder / "run").exit_code == 0
    rows = read_rows(folder / "run")
    assert len(rows) == 4 * shots == len({row["image_sha256"] for row in rows})
    assert len({row["embedding_sha256"] for row in rows}) == shots
