"""Pathway scores of gene expression: ssGSEA as gseapy has it, mean z-scores, what is told."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from factory import api
from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError, SourceError
from factory.data.expression.gene_sets import HOUSEKEEPING, find_gene_sets
from factory.data.expression.scoring import mark_members, score_mean_z, score_ssgsea
from factory.data.expression.settings import ExpressionSettings
from factory.recipe.checks.recipe import check_recipe
from factory.recipe.file import load_recipe
from tests import ASSETS
from tests.running import call

SPOTS = ASSETS / "expression" / "her2st.csv"
"""212 genes (rows) of 8 spots (columns): raw counts."""
REFERENCE = json.loads((ASSETS / "expression" / "gseapy.json").read_text())
"""What gseapy 1.3.1 gives for the table of `draw_table`: ES and NES, samples by sets."""
LOW = {"min_coverage": 0.2}


def draw_table() -> pd.DataFrame:
    values = np.random.default_rng(7).lognormal(size=(6, 300))
    names = [f"G{number}" for number in range(300)]
    return pd.DataFrame(values, [f"s{number}" for number in range(6)], names)


def score(table: Path, **settings: Any) -> tuple[pd.DataFrame, Any]:
    out = table.parent / "scores.parquet"
    given = {"sets": "hallmark", **settings}
    told = api.score_expression(table, out, ExpressionSettings(**given))
    return pq.read_table(out).to_pandas().set_index("sample"), told


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    (tmp_path / "spots.csv").write_bytes(SPOTS.read_bytes())
    return tmp_path / "spots.csv"


def test_ssgsea_is_that_of_gseapy(tmp_path: Path) -> None:
    table, sets = draw_table(), REFERENCE["sets"]
    members = mark_members(list(table.columns), list(sets.values()))
    found = score_ssgsea(table.to_numpy(), members)
    assert np.abs(found - np.array(REFERENCE["es"])).max() < 1e-5
    lines = ["\t".join((name, "-", *genes)) for name, genes in sets.items()]
    (tmp_path / "own.gmt").write_text("\n".join(lines))
    table.rename_axis("id").to_csv(tmp_path / "t.csv")
    scores, told = score(tmp_path / "t.csv", sets=str(tmp_path / "own.gmt"), values="log")
    assert np.abs(scores.to_numpy() - np.array(REFERENCE["nes"])).max() < 1e-6
    assert told["licence"] is None and list(scores.columns) == list(sets)


def test_ssgsea_takes_ties_as_equals_and_no_order_of_genes() -> None:
    values = np.array([[0.0, 0, 0, 3, 3, 5]])
    members = np.array([[1.0, 0, 0, 1, 0, 0]]).T
    # By hand: ranks 2 2 2 4.5 4.5 6, of which the first and the fourth are hits.
    hit = (2**1.25 + 4.5**1.25) / (2**0.25 + 4.5**0.25)
    assert score_ssgsea(values, members)[0, 0] == pytest.approx(hit - (2 + 2 + 4.5 + 6) / 4)
    order = [2, 4, 0, 5, 3, 1]
    turned = np.zeros((6, 1))
    turned[[order.index(0), order.index(3)]] = 1
    assert score_ssgsea(values[:, order], turned) == pytest.approx(score_ssgsea(values, members))


def test_mean_z_is_the_mean_of_z_scores_and_a_gene_that_does_not_vary_counts_as_0() -> None:
    values = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]])
    members = np.array([[1.0, 1.0, 0.0]]).T
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    assert score_mean_z(values, members, mean, deviation).tolist() == [[-0.5], [0.5]]


def test_a_table_of_spots_is_read_normalised_and_scored_and_says_what_was_done(spots: Path) -> None:
    scores, told = score(spots, method="mean_z", **LOW)
    assert scores.shape == (8, 50) and told["samples"] == 8
    steps = "; ".join(told["steps"])
    assert "genes stand in rows: 92 of them are of the sets" in steps
    assert "taken for counts: log1p of counts per million" in steps
    assert "mitochondrial and housekeeping genes are dropped" in steps
    assert told["licence"]["id"] == "cc-by-4.0" and "Liberzon" in told["licence"]["attribution"][0]
    e2f = told["coverage"]["HALLMARK_E2F_TARGETS"]
    assert e2f["genes"] == 200 and e2f["covered"] + len(e2f["missing"] + e2f["dropped"]) == 200
    low = {name for name, each in told["coverage"].items() if each["is_low"]}
    assert scores[sorted(low)].isna().all().all() and len(low) > 40
    # The same, by hand.
    counts = pd.read_csv(spots, index_col=0).T
    logs = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e6)
    genes = find_gene_sets("hallmark", load_catalogs()).sets["HALLMARK_E2F_TARGETS"]
    mine = logs[[gene for gene in genes if gene in logs and gene not in HOUSEKEEPING]]
    z = ((mine - mine.mean()) / mine.std(ddof=0)).fillna(0.0).mean(axis=1)
    assert np.allclose(scores["HALLMARK_E2F_TARGETS"], z)


def test_orientation_file_and_case_change_no_score(spots: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(spots, index_col=0)
    known, _ = score(spots, **LOW)
    turned = frame.T.rename_axis("spot")
    turned.columns = [str(name).lower() for name in turned.columns]
    turned.reset_index().to_parquet(tmp_path / "turned.parquet")
    frame.to_csv(tmp_path / "t.tsv.gz", sep="\t")
    for name in ("turned.parquet", "t.tsv.gz"):
        found, told = score(tmp_path / name, **LOW)
        assert found.equals(known)
        changed = 212 if name == "turned.parquet" else 2
        assert f"{changed} symbols are compared in capitals" in told["steps"]


def test_what_a_table_holds_is_told_apart(spots: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(spots, index_col=0)
    known, _ = score(spots, **LOW)
    tpm = frame / frame.sum() * 1e6
    for name, values in (("tpm", tpm), ("log", np.log1p(tpm))):
        values.to_csv(tmp_path / f"{name}.csv")
        found, told = score(tmp_path / f"{name}.csv", **LOW)
        assert f"taken for {name}" in str(told["steps"])
        assert np.allclose(found, known, equal_nan=True)


def test_symbols_that_repeat_are_added_up_and_columns_are_handed_on(
    spots: Path, tmp_path: Path
) -> None:
    turned = pd.read_csv(spots, index_col=0).T
    split = turned.copy()
    split["srsf1"], split["SRSF1"] = turned["SRSF1"] - 1, 1
    split.insert(0, "patient", ["B"] * 4 + ["C"] * 4)
    split.rename_axis("spot").to_csv(tmp_path / "t.csv")
    found, told = score(tmp_path / "t.csv", keep=("patient",), **LOW)
    assert "1 columns repeat a symbol: they were added up" in told["steps"]
    assert found.pop("patient").tolist() == ["B"] * 4 + ["C"] * 4
    assert np.allclose(found, score(spots, **LOW)[0], equal_nan=True)


@pytest.mark.parametrize("method", ["mean_z", "ssgsea"])
def test_other_samples_are_scaled_as_the_first_ones(
    spots: Path, tmp_path: Path, method: str
) -> None:
    frame = pd.read_csv(spots, index_col=0)
    frame.iloc[:, :6].to_csv(tmp_path / "train.csv")
    frame.iloc[:, 4:6].to_csv(tmp_path / "test.csv")
    train, _ = score(tmp_path / "train.csv", method=method, **LOW)
    (tmp_path / "scores.parquet").rename(tmp_path / "train.parquet")
    like = {"like": tmp_path / "train.parquet"}
    again, _ = score(tmp_path / "test.csv", method=method, **like, **LOW)
    assert np.allclose(again, train.iloc[4:], equal_nan=True)
    alone, _ = score(tmp_path / "test.csv", method=method, **LOW)
    assert not np.allclose(alone, train.iloc[4:], equal_nan=True)
    other = "ssgsea" if method == "mean_z" else "mean_z"
    with pytest.raises(InputError, match=f"was made with method {method}, not {other}"):
        score(tmp_path / "test.csv", method=other, **like, **LOW)


def test_sets_are_read_of_a_table_whose_columns_they_are(spots: Path, tmp_path: Path) -> None:
    genes = [*pd.read_csv(spots)["gene"][:8]]
    rows = [f"{genes[i]},{genes[i + 4] if i < 3 else ''}" for i in range(4)]
    (tmp_path / "signatures.csv").write_text("\n".join(("ONE,TWO", *rows)))
    found, told = score(spots, sets=str(tmp_path / "signatures.csv"), min_genes=3)
    assert list(found.columns) == ["ONE", "TWO"]
    assert [each["genes"] for each in told["coverage"].values()] == [4, 3]


@pytest.mark.parametrize(
    ("table", "changes", "fault"),
    [
        ("gene,a\nENSG01,1\nENSG02,2\n", {}, r"no gene of the sets is there.*Ensembl ids\?"),
        ("gene,a\nMYC,1\nTP53,x\n", {}, r"row 'TP53' holds no numbers"),
        ("id,MYC,age\ns,1,old\n", {}, r"column 'age' holds no numbers: name it in --keep"),
        ("gene,a\nMYC,1\nTP53,\n", {}, r"1 values are missing or not finite, .*gene 'TP53'"),
        ("gene,a\nMYC,0\nTP53,0\n", {}, r"sample 'a' has no counts at all"),
        ("gene,a\nMYC,-1\nTP53,2\n", {"values": "counts"}, r"negative counts"),
        ("id,MYC\ns,1\ns,2\n", {}, r"sample 's' stands twice"),
        ("id,MYC\ns,1\n", {"keep": ("age",)}, r"no column 'age'"),
        ("id,age,age,MYC\ns,1,2,3\n", {"keep": ("age",)}, r"column 'age' stands twice"),
        ("gene,a,a\nMYC,1,2\nTP53,2,3\n", {}, r"sample 'a' stands twice"),
        ("id,MYC\ns,1\nt,2\n", {}, r"of 200 genes are there, 5 and 50% are asked for"),
        ("id,MYC\ns,1\n", {"sets": "halmark"}, r"did you mean 'hallmark'"),
        ("id\ns\n", {}, r"holds no samples and genes"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(
    tmp_path: Path, table: str, changes: dict[str, Any], fault: str
) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(SourceError, match=fault):
        score(tmp_path / "t.csv", **changes)
    assert not (tmp_path / "scores.parquet").exists()


def test_too_little_of_a_set_is_refused_where_asked(spots: Path) -> None:
    with pytest.raises(SourceError, match=r"other sets: \d+ of 200 genes are there"):
        score(spots, on_low="refuse", **LOW)


def test_broken_sets_name_their_line(tmp_path: Path, spots: Path) -> None:
    for text, fault in (
        ("ONE\n", ":1: want a name, an address and genes"),
        ("ONE\t-\tMYC\nONE\t-\tMYC\n", ":2: set 'ONE' stands twice"),
        ("", "holds no gene sets"),
    ):
        (tmp_path / "s.gmt").write_text(text)
        with pytest.raises(SourceError, match=fault):
            score(spots, sets=str(tmp_path / "s.gmt"))


def test_the_command_writes_what_a_recipe_takes(spots: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    words = ["expression", "score", str(spots), "--sets", "hallmark", "--out", str(out)]
    told = call(*words, "--min-coverage", "0.2")
    assert told.exit_code == 0, told.output
    assert (
        "attribution: Liberzon et al. 2015" in told.output and "8 samples, 50 sets" in told.output
    )
    assert "HALLMARK_HYPOXIA: NaN: " in told.output
    as_json = call(*words, "--min-coverage", "0.2", "--json")
    assert json.loads(as_json.stdout)["coverage"]["HALLMARK_HYPOXIA"]["is_low"]
    block = {"kind": "vector", "vectors": out.name, "ignore": ["sample"], "per_row": 1}
    recipe = {"name": "rna", "generator": {"model": "fake"}, "conditions": [block]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "conditions": [{**block, "missing": "zero"}]}))
    check_recipe(load_recipe(path))
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="missing or NaN"):
        check_recipe(load_recipe(path))
    wrong = [*words[:-1], str(tmp_path / "scores.csv")]
    told = call(*wrong)
    assert told.exit_code == 2 and "written as .parquet" in told.output


def test_the_shipped_sets_are_the_fifty_of_hallmark() -> None:
    sets = find_gene_sets("hallmark", load_catalogs())
    assert len(sets.sets) == 50 and len(sets.genes) == 4384
    assert all(name.startswith("HALLMARK_") for name in sets.sets)


SET = "ONE\t-\tMYC\tTP53\nTWO\t-\tKRAS\tEGFR\n"
SMALL: dict[str, Any] = {"min_genes": 1, "values": "counts", "genes": "columns"}


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.gmt").write_text(SET)
    return str(tmp_path / "own.gmt")


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_names_and_columns_to_hand_on_stay_text_and_empty_cells_are_none(
    tmp_path: Path, own: str
) -> None:
    head = "id,patient,MYC,TP53,KRAS,EGFR"
    lines = ("001,007,1,2,3,4", "NA,NA,2,1,5,3", "1,,7,1,1,2")
    table = write_csv(tmp_path / "t.csv", head, *lines)
    score(table, sets=own, keep=("patient",), **SMALL)
    found = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert found["sample"] == ["001", "NA", "1"]
    assert found["patient"] == ["007", "NA", None]
    # Without a name over the first column, as R writes it.
    write_csv(table, head.removeprefix("id,"), *lines)
    score(table, sets=own, keep=("patient",), **SMALL)
    assert pq.read_table(tmp_path / "scores.parquet")["sample"].to_pylist() == ["001", "NA", "1"]
    frame = pd.DataFrame({"id": ["a", "b", "c"], "patient": pd.array([7, None, 8], "Int64")})
    for place, gene in enumerate(("MYC", "TP53", "KRAS", "EGFR")):
        frame[gene] = [place, 5, place + 2]
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    score(tmp_path / "t.parquet", sets=own, keep=("patient",), **SMALL)
    found = pq.read_table(tmp_path / "scores.parquet")["patient"].to_pylist()
    assert found == [7, None, 8] and all(not isinstance(value, float) for value in found)
    write_csv(table, head, *lines, ",5,1,1,1,1")
    with pytest.raises(SourceError, match=r"sample 4 has no name"):
        score(table, sets=own, keep=("patient",), **SMALL)


def test_an_empty_cell_of_annotations_is_none(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    obs = pd.DataFrame({"patient": pd.Categorical(["p1", None, "p2"])}, ["a", "b", "c"])
    var = pd.DataFrame(index=["MYC", "TP53", "KRAS", "EGFR"])
    counts = np.array([[1.0, 2, 3, 4], [2, 1, 5, 3], [7, 1, 1, 2]])
    data = SimpleNamespace(X=counts, obs=obs, obs_names=obs.index, var_names=var.index)
    package = SimpleNamespace(read_h5ad=lambda path: data)
    monkeypatch.setitem(sys.modules, "anndata", package)
    score(tmp_path / "t.h5ad", sets=own, keep=("patient",), **SMALL)
    found = pq.read_table(tmp_path / "scores.parquet")["patient"].to_pylist()
    assert found == ["p1", None, "p2"]


def test_a_column_beside_genes_is_named_and_left_out(tmp_path: Path, own: str) -> None:
    table = write_csv(
        tmp_path / "t.csv", "NAME,about,a,b", "MYC,x,1,2", "TP53,y,2,1", "KRAS,z,3,9", "EGFR,,1,1"
    )
    given = {"sets": own, "min_genes": 1}
    with pytest.raises(SourceError, match=r"column 'about' holds no numbers: name it in --keep"):
        score(table, **given)
    found, told = score(table, keep=("about",), **given)
    assert list(found.columns) == ["ONE", "TWO"] and list(found.index) == ["a", "b"]
    assert "about: of genes, not of samples: left out" in told["steps"]


@pytest.mark.parametrize(
    ("rows", "changes", "fault"),
    [
        (["a,1,2,3,4", "b,4,3,2,1"], {}, r"set 'ALL' holds every gene of the table"),
        (["a,1,2,3,4"], {"method": "mean_z"}, r"no gene of the sets varies, so that nothing"),
        (["a,1,2,3,4"], {"sets": "one.gmt"}, r"scores do not differ, so that nothing scales"),
    ],
)
def test_what_nothing_can_scale_is_refused(
    tmp_path: Path, rows: list[str], changes: dict[str, Any], fault: str
) -> None:
    (tmp_path / "all.gmt").write_text(SET + "ALL\t-\tMYC\tTP53\tKRAS\tEGFR\n")
    (tmp_path / "one.gmt").write_text(SET.splitlines()[0])
    table = write_csv(tmp_path / "t.csv", "id,MYC,TP53,KRAS,EGFR", *rows)
    sets = str(tmp_path / changes.get("sets", "all.gmt"))
    with pytest.raises(SourceError, match=fault):
        score(table, **{**SMALL, **changes, "sets": sets})
    assert not (tmp_path / "scores.parquet").exists()


def test_logarithms_of_a_gene_that_repeats_are_not_added_up(tmp_path: Path, own: str) -> None:
    lines = ["gene,a,b", "MYC,1.5,2", "myc,0.25,1", "TP53,2,1", "KRAS,3,9", "EGFR,1,1"]
    table = write_csv(tmp_path / "t.csv", *lines)
    given: dict[str, Any] = {"sets": own, "min_genes": 1, "genes": "rows"}
    with pytest.raises(SourceError, match=r"1 genes of the sets .* 'MYC': logarithms cannot"):
        score(table, values="log", **given)
    counts, _ = score(table, values="tpm", **given)
    lines[1:3] = ["MYC,1.75,3"]
    joined, _ = score(write_csv(table, *lines), values="tpm", **given)
    assert np.allclose(counts, joined)
    # The same with genes in columns, whose names repeat as they are.
    turned = write_csv(
        tmp_path / "c.csv", "id,MYC,MYC,TP53,KRAS,EGFR", "a,1.5,.25,2,3,1", "b,2,1,1,9,1"
    )
    found, told = score(turned, values="tpm", sets=own, min_genes=1)
    assert np.allclose(found, joined) and "1 columns repeat a symbol: they" in str(told["steps"])
    # Others may repeat: their ranks alone count.
    other = [*lines, "Y_RNA,1,2", "Y_RNA,2,1"]
    _, told = score(write_csv(table, *other), values="log", **given)
    assert told["genes"] == 6


def test_scores_are_scaled_like_what_is_comparable(tmp_path: Path, own: str) -> None:
    lines = ["id,MYC,TP53,KRAS,EGFR,OTHER", "a,1,2,3,4,1", "b,4,3,2,1,2", "c,4,1,2,6,5"]
    table = write_csv(tmp_path / "t.csv", *lines)
    for method in ("mean_z", "ssgsea"):
        score(table, sets=own, method=method, **SMALL)
        (tmp_path / "scores.parquet").rename(tmp_path / f"{method}.parquet")
    z, ranks = (
        {"sets": own, "method": m, "like": tmp_path / f"{m}.parquet"} for m in ("mean_z", "ssgsea")
    )
    assert not [step for step in score(table, **z, **SMALL)[1]["steps"] if "z.parquet" in step]
    with pytest.raises(InputError, match=r"made with values counts, not log: give both in one"):
        score(table, **z, **{**SMALL, "values": "log"})
    (tmp_path / "own.gmt").write_text(SET.replace("EGFR", "OTHER"))
    with pytest.raises(InputError, match=r"own.gmt held other genes then"):
        score(table, **z, **SMALL)
    (tmp_path / "own.gmt").write_text(SET)
    write_csv(table, *[",".join(line.split(",")[:4]) for line in lines])
    assert "other genes: scores compare less well" in str(score(table, **ranks, **SMALL)[1])
    score(table, sets=own, method="mean_z", **SMALL)
    (tmp_path / "scores.parquet").rename(tmp_path / "mean_z.parquet")
    write_csv(table, *lines)
    told = score(table, **z, **SMALL)[1]["steps"]
    assert "1 genes of the sets are not in mean_z.parquet: they count as 0" in told


def test_spots_are_scaled_to_few_reads_and_within_their_sections(spots: Path) -> None:
    counts = pd.read_csv(spots, index_col=0).T
    table = spots.with_name("turned.csv")
    sections = ["B4"] * 4 + ["C2"] * 4
    counts.assign(section=sections).rename_axis("spot").to_csv(table)
    found, told = score(table, method="mean_z", target_sum=1e4, within="section", **LOW)
    assert found.pop("section").tolist() == sections
    steps = "; ".join(told["steps"])
    assert "taken for counts: log1p of counts per 10,000, of all genes" in steps
    assert "genes are scaled within each section, by its own samples: B4 of 4, C2 of 4" in steps
    logs = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)
    genes = find_gene_sets("hallmark", load_catalogs()).sets["HALLMARK_E2F_TARGETS"]
    mine = logs[[gene for gene in genes if gene in logs and gene not in HOUSEKEEPING]]
    own = mine.groupby(sections)
    deviation = own.transform("std", ddof=0)
    z = ((mine - own.transform("mean")) / deviation.where(deviation > 0)).fillna(0.0).mean(axis=1)
    assert np.allclose(found["HALLMARK_E2F_TARGETS"], z)
    # A section's scores are those of its table alone.
    counts.iloc[4:].rename_axis("spot").to_csv(spots.with_name("alone.csv"))
    alone, _ = score(spots.with_name("alone.csv"), method="mean_z", target_sum=1e4, **LOW)
    assert np.allclose(alone["HALLMARK_E2F_TARGETS"], z[4:])


def test_groups_and_sums_that_do_not_fit_are_refused(tmp_path: Path, own: str) -> None:
    rows = ["a,S1,1,2,3,4", "b,S1,4,3,2,1", "c,S1,4,1,2,6", "d,S2,1,1,2,3"]
    table = write_csv(tmp_path / "t.csv", "id,section,MYC,TP53,KRAS,EGFR", *rows)
    given: dict[str, Any] = {"sets": own, "method": "mean_z", "within": "section", **SMALL}
    with pytest.raises(SourceError, match=r"--within section: S2 has 1 samples, .*of 3 or more"):
        score(table, **given)
    with pytest.raises(InputError, match=r"--within scales each group .* leave out --like and"):
        score(table, **{**given, "method": "ssgsea"})
    write_csv(table, "id,section,MYC,TP53,KRAS,EGFR", *rows[:3], "d,,1,1,2,3")
    with pytest.raises(SourceError, match=r"--within section: sample 'd' has none"):
        score(table, **given)
    write_csv(table, "id,section,MYC,TP53,KRAS,EGFR", *rows[:3])
    score(table, **given)
    (tmp_path / "scores.parquet").rename(tmp_path / "first.parquet")
    like = {**given, "within": None, "keep": ("section",), "like": tmp_path / "first.parquet"}
    with pytest.raises(InputError, match=r"each section of it was scaled by itself.*both --within"):
        score(table, **like)
    score(table, **{**like, "like": None, "target_sum": 1e4})
    (tmp_path / "scores.parquet").rename(tmp_path / "first.parquet")
    with pytest.raises(InputError, match=r"made with target_sum 10000.0, not 1000000.0: give both"):
        score(table, **like)
    with pytest.raises(InputError, match=r"--target-sum 10000: its values are given as log and"):
        score(table, **{**like, "like": None, "values": "log", "target_sum": 1e4})
