"""Files and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from structures import NAMES, random_mixture, random_samples

import jaxgmm
from jaxgmm import cli, tables

HERE = Path(__file__).parent / "data"
DATA = Path(__file__).parent.parent / "notebooks" / "data"


def test_a_file_of_version_1_still_loads():
    """Written by the first release with this format."""
    params = jaxgmm.load(HERE / "version1.safetensors")
    assert params.structure.name == "tied"
    np.testing.assert_array_equal(params.weights, np.float32([0.25, 0.75]))
    np.testing.assert_array_equal(params.means, np.float32([[0, 1, 2], [3, 4, 5]]))
    np.testing.assert_array_equal(params.cov, np.float32([[2, 0.5, 0], [0.5, 3, 0], [0, 0, 4]]))
    assert jaxgmm.load_metadata(HERE / "version1.safetensors")["columns"] == '["a", "b", "c"]'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_dict_then_from_dict_is_the_identity(name, dtype):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), random_mixture(name))
    again = jaxgmm.from_dict(json.loads(json.dumps(jaxgmm.to_dict(params))))
    assert again.structure == params.structure
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert again.means.dtype == dtype


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "other"}, "'format' must be one of"),
        ({"version": "9"}, "'version' must be one of"),
        ({"dtype": "int8"}, "'dtype' must be one of"),
        ({"structure": "round"}, "'structure' must be one of"),
        ({"means": "none"}, "nested lists of numbers"),
        ({"means": [[0.0]]}, "shapes that do not fit"),
        ({"weights": [-1.0, 1.0, 1.0]}, "no mixture"),
    ],
)
def test_from_dict_names_what_is_wrong(change, match):
    with pytest.raises(ValueError, match=match):
        jaxgmm.from_dict(jaxgmm.to_dict(random_mixture("diag")) | change)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_onnx_says_the_same(name):
    skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    from jaxgmm.sklearn import GaussianMixture

    X, params = random_samples(dtype=np.float32), random_mixture(name, dtype=np.float32)
    model = skl2onnx.to_onnx(GaussianMixture.from_params(params).to_sklearn(), X[:1], options={"score_samples": True})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    label, gamma, log_px = session.run(None, {"X": X})
    np.testing.assert_array_equal(label.ravel(), jaxgmm.predict(params, X))
    np.testing.assert_allclose(gamma, jaxgmm.predict_proba(params, X), atol=1e-5)
    np.testing.assert_allclose(log_px.ravel(), jaxgmm.log_prob(params, X), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_save_then_load_is_the_identity(name, dtype, tmp_path):
    params = random_mixture(name)
    jaxgmm.save(tmp_path / "m.safetensors", params, {"columns": '["a", "b"]'})
    again = jaxgmm.load(tmp_path / "m.safetensors")
    assert again.structure == params.structure
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(a, b)
    assert jaxgmm.load_metadata(tmp_path / "m.safetensors")["columns"] == '["a", "b"]'


def test_float64_file_without_x64_keeps_its_digits(tmp_path):
    with jax.enable_x64(True):
        jaxgmm.save(tmp_path / "m.safetensors", random_mixture("full"))
    params = jaxgmm.load(tmp_path / "m.safetensors")
    assert params.means.dtype == np.float64
    assert jaxgmm.predict(params, np.zeros((2, 2), np.float32)).shape == (2,)


def test_wrong_files_meet_a_sentence(tmp_path):
    from safetensors.numpy import save_file

    good = tmp_path / "good.safetensors"
    jaxgmm.save(good, random_mixture("diag"))
    path = tmp_path / "bad.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        jaxgmm.load(path)
    for content in (b"", b"not a model at all", good.read_bytes()[:-8], good.read_bytes()[:20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a safetensors file, or is truncated"):
            jaxgmm.load(path)
    header = {"format": "jaxgmm", "version": "1", "structure": "diag"}
    tensors = {"weights": np.ones(2), "means": np.ones((2, 3)), "cov": np.ones((2, 3))}
    for change, message in (
        ({"format": "other"}, "not of a jaxgmm mixture"),
        ({"version": "99"}, "version 99"),
        ({"structure": "banana"}, "structure 'banana'"),
        ({"structure": "full"}, "do not fit together"),
    ):
        save_file(tensors, path, metadata=header | change)
        with pytest.raises(ValueError, match=message):
            jaxgmm.load(path)
    for spoilt in ({"weights": np.array([np.nan, 1])}, {"weights": np.array([-1.0, 3])}, {"cov": -np.ones((2, 3))}):
        save_file(tensors | spoilt, path, metadata=header)
        with pytest.raises(ValueError, match="no mixture"):
            jaxgmm.load(path)
    with pytest.raises(ValueError, match="metadata"):
        jaxgmm.save(path, random_mixture("diag"), {"format": "mine"})
    with pytest.raises(ValueError, match="one mixture"):
        jaxgmm.save(path, jax.tree.map(lambda leaf: leaf[None], random_mixture("diag")))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command line in this process, in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_start_jax", lambda: None)  # x64 and the cache are the process's own; see the last test

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxgmm", *map(str, arguments)])
        with jax.enable_x64(True), pytest.raises(SystemExit) as leave:
            cli.main()
        captured = capsys.readouterr()
        return leave.value.code, captured.out, captured.err

    return call


@pytest.fixture
def messy(tmp_path):
    """A file with text, missing values and an infinity among two clouds."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(20, 2)), rng.normal(size=(20, 2)) + 9])
    rows = [[f"{a:.6f}", f"{b:.6f}", "word"] for a, b in values]
    rows[2][0], rows[5][1], rows[7][0] = "NA", "", "inf"
    path = tmp_path / "messy.csv"
    path.write_text("a,b,name\n" + "\n".join(",".join(row) for row in rows) + "\n")
    return path


def test_fit_predict_show_and_sample(run, messy, tmp_path):
    code, out, err = run(
        "fit", messy, "--components", "1:2", "--restarts", "2", "--output", "m.safetensors",
        "--labels", "labels.csv", "--plot", "fit.png", "--json",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0
    assert "left out 1 column not numeric: name" in err
    assert "left out 3 of 40 rows with missing or infinite values: 2 in a, 1 in b" in err
    assert (report["rows"], report["rows_used"]) == (40, 37)
    assert (report["columns"], report["status"], len(report["weights"])) == (["a", "b"], "CONVERGED", 2)
    assert (tmp_path / "fit.png").read_bytes()[:4] == b"\x89PNG"
    labels = pl.read_csv(tmp_path / "labels.csv")
    assert labels["row"].to_list() == list(range(40))
    assert labels["component"].is_null().arg_true().to_list() == [2, 5, 7]
    present = labels["component"].drop_nulls()
    assert len(set(present[:17])) == 1
    assert set(present[17:]) == {1 - present[0]}

    code, out, _ = run("predict", "m.safetensors", messy)
    assert code == 0
    assert out == (tmp_path / "labels.csv").read_text()
    code, out, _ = run("show", "m.safetensors")
    assert code == 0
    assert "converged after" in out
    code, out, _ = run("show", "m.safetensors", "--json")
    assert json.loads(out)["weights"] == report["weights"]
    code, out, _ = run("sample", "m.safetensors", "-n", "5", "--seed", "1")
    assert code == 0
    assert out.splitlines()[0] == "a,b,component"
    assert len(out.splitlines()) == 6


def test_after_ctrl_c_the_best_so_far_is_shown_and_the_exit_code_says_so(run, messy, monkeypatch):
    sweep = cli._sweep

    def cut_short(*arguments):
        grid = sweep(*arguments)
        return grid._replace(status=np.full_like(grid.status, jaxgmm.Status.INTERRUPTED))

    monkeypatch.setattr(cli, "_sweep", cut_short)
    code, out, err = run("fit", messy, "--components", "2", "--restarts", "1")
    assert code == 130
    assert "log-likelihood" in out
    assert "interrupted; this is the best so far" in err


def test_parquet_and_chosen_columns(run, tmp_path):
    rng = np.random.default_rng(0)
    pl.DataFrame({"x": rng.normal(size=30), "y": rng.normal(size=30), "flag": [True] * 30}).write_parquet(
        tmp_path / "t.parquet"
    )
    code, out, _ = run("fit", "t.parquet", "--components", "1", "--columns", "y", "--restarts", "1")
    assert code == 0
    assert "30 of 30 rows, 1 features" in out


def test_text_of_a_parquet_file_is_read_where_it_is_asked_for(run, tmp_path):
    frame = pl.DataFrame({"kind": ["a", "b"] * 15, "x": np.random.default_rng(0).normal(size=30), "word": ["w"] * 30})
    frame.write_parquet(tmp_path / "t.parquet")
    assert tables.read_table(tmp_path / "t.parquet")["kind"].null_count() == 30
    assert tables.read_table(tmp_path / "t.parquet", "x,kind")["kind"].to_list() == frame["kind"].to_list()
    code, out, err = run("fit", "t.parquet", "--components", "1", "--group", "kind", "--restarts", "1", "--json")
    assert code == 0
    assert [group["rows_used"] for group in json.loads(out)["groups"]] == [15, 15]
    assert "left out 1 column not numeric: word" in err
    code, _, err = run("fit", "t.parquet", "--columns", "x,word")
    assert code == 2
    assert "column 'word' is not numeric (String)" in err


@pytest.mark.parametrize(
    "text",
    [
        "a;b\n1;2.5\n3;4\n",
        "a;b\n1;2,5\n3;4,0\n",
        "a\tb\n1\t2.5\n3\t4\n",
        '"a,a";b\n1;2,5\n3;4\n',
        "a;b\n1;2\n3;4,0\n",
        "a, b\n1.0, 2.5\n3.0, 4.0\n",
        'a;b\n"1";"2,5"\n"3";"4,0"\n',
        "a;b\n1,0;2.5\n3,0;4.0\n",
        "a;b\n1,0;2,5\n3;4.0\n-;1,5\n",
        "a,b\n1,2.5\n3,4\nn/a,1\n.,2\n4,--\n",
    ],
)
def test_separators_and_decimal_commas(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    table = tables.read_table(tmp_path / "t.csv")
    X, _ = tables.numbers(table, tables.choose_columns(table, None), tmp_path)
    assert X.tolist() == [[1, 2.5 if "5" in text else 2], [3, 4]]


def test_a_column_of_numbers_but_for_a_cell_is_named_with_it(run, tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n" + "".join(f"{i},5;{i * i}\n" for i in range(30)) + "12,x;3\n")
    code, _, err = run("fit", "t.csv", "--components", "1", "--restarts", "1")
    assert code == 0
    assert "column 'a' holds numbers, but 1 of 31 cells is no number, the first '12,x' in row 30, counted from 0" in err
    code, _, err = run("fit", "t.csv", "--columns", "a")
    assert code == 2
    assert "column 'a' is not numeric (String): 1 of 31 cells is no number, the first '12,x' in row 30" in err


@pytest.mark.parametrize(
    ("header", "noted"),
    [("5.1,3.5,setosa", True), ("x,y,name", False), ("1990,1991,country", False), (",0.2,0.7", False), ("x,6.1,name", False)],
)
def test_a_first_line_that_may_be_a_row_is_noted(header, noted, tmp_path, capsys):
    (tmp_path / "t.csv").write_text(header + "\n4.9,3.0,a\n6.3,4.3,b\n")
    assert tables.read_table(tmp_path / "t.csv").height == 2
    assert ("is taken for names, but has numbers like those below" in capsys.readouterr().err) == noted


def test_a_name_given_twice_is_noted(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("x,y,x\n4.9,3.0,1\n6.3,4.3,2\n")
    assert tables.read_table(tmp_path / "t.csv").columns == ["x", "y", "x_duplicated_0"]
    assert "gives twice are called x_duplicated_0" in capsys.readouterr().err
    (tmp_path / "t.csv").write_text("x,y,x_duplicated_0\n4.9,3.0,1\n6.3,4.3,2\n")
    assert tables.read_table(tmp_path / "t.csv").width == 3
    assert not capsys.readouterr().err


def test_integers_that_numpy_does_not_hold_are_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{10**19 + i * 10**17},{i * i}\n" for i in range(12)))
    table = tables.read_table(tmp_path / "t.csv")
    X, _ = tables.numbers(table, tables.choose_columns(table, None), tmp_path / "t.csv")
    np.testing.assert_array_equal(X[:, 0], 1e19 + 1e17 * np.arange(12))


def test_a_column_that_counts_rows_is_noted(capsys):
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"id": range(1000, 1060, 2), "x": rng.normal(size=30), "n": rng.integers(0, 99, 30)})
    assert tables.choose_columns(table, None) == ["id", "x", "n"]
    said = capsys.readouterr().err
    assert "column 'id' looks like an identifier or a row number, and is fitted. Leave it out by --columns 'x,n'" in said
    assert said.count("identifier") == 1
    tables.choose_columns(table, "id,x")  # who names it wants it
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("text", "counts"), [("3", [3]), ("1:3", [1, 2, 3]), ("4,1,2", [1, 2, 4]), ("1:2, 5", [1, 2, 5])])
def test_numbers_of_components_as_they_are_written(text, counts):
    assert cli._component_range(text) == counts


def test_flags_show_no_type_in_help(run):
    code, out, _ = run("fit", "--help")
    assert code == 0
    assert "--json" in out
    assert "bool" not in out


BAD = {
    "no file": (["fit", "nothing.csv"], "no such file"),
    "no rows": (["fit", "empty.csv"], "has no rows"),
    "nothing at all": (["fit", "blank.csv"], "cannot be read as a table"),
    "binary": (["fit", "noise.csv"], "noise.csv"),
    "not parquet": (["fit", "noise.parquet"], "cannot be read as a table"),
    "no numbers": (["fit", "words.csv"], "no column is numeric"),
    "unknown column": (["fit", "numbers.csv", "--columns", "aa"], "no column 'aa'.*Did you mean 'a'"),
    "column of text": (["fit", "words.csv", "--columns", "w"], "column 'w' is not numeric"),
    "components": (["fit", "numbers.csv", "--components", "9:1"], "--components must be a number"),
    "components from nought": (["fit", "numbers.csv", "--components", "0:2"], "--components must be a number"),
    "components text": (["fit", "numbers.csv", "--components", "three"], "--components must be a number"),
    "components past counting": (["fit", "numbers.csv", "--components", "1:99999999999"], "up to 1,000,000; got"),
    "too many components": (["fit", "numbers.csv", "--components", "7"], "more components than there are complete rows, 3"),
    "covariance": (["fit", "numbers.csv", "--components", "1", "--covariance-type", "fll"], "Did you mean 'full'"),
    "restarts": (["fit", "numbers.csv", "--components", "1", "--restarts", "0"], "n_restarts must be at least 1"),
    "folder": (["fit", "numbers.csv", "--output", "nowhere/m.safetensors"], "does not exist"),
    "option": (["fit", "numbers.csv", "--bogus"], "No such option"),
    "command": (["fitt"], "No such command"),
    "argument": (["fit"], "Missing argument"),
    "model": (["show", "numbers.csv"], "not a safetensors file"),
    "no model": (["predict", "nothing", "numbers.csv"], "no such file"),
    "samples": (["sample", "m.safetensors", "-n", "0"], "greater than or equal to 1"),
    "seed": (["fit", "numbers.csv", "--seed", "99999999999999999999"], "less than or equal"),
    "no header": (["fit", "bare.csv"], "begins with numbers"),
    "no header, a number twice": (["fit", "twice.csv"], "begins with numbers, 1.0, 1.0"),
    "no header, a value missing": (["fit", "lacking.csv"], "begins with numbers, 1.0, NA"),
    "spaces": (["fit", "spaces.csv"], "separated by commas"),
    "columns twice": (["fit", "numbers.csv", "--columns", "a,a"], "must name different columns"),
    "output is a folder": (["fit", "numbers.csv", "--output", "."], "is a folder"),
    "picture without a suffix": (["fit", "numbers.csv", "--plot", "fit"], "a picture ends in"),
    "a folder": (["fit", "."], "is a folder"),
    "labels over input": (["fit", "numbers.csv", "--labels", "numbers.csv"], "must name different files"),
    "labels over model": (["fit", "numbers.csv", "--labels", "o", "--output", "o"], "must name different files"),
    "prediction over input": (["predict", "x.safetensors", "x.csv", "--output", "x.csv"], "must not name a file that is read"),
    "a folder to show": (["show", "."], "is a folder. Name a model in it"),
    "empty column": (["fit", "hollow.csv", "--columns", "b"], "column 'b' holds no value"),
    "folder without models": (["predict", ".", "numbers.csv"], "does not hold the models of one run"),
    "features": (["predict", "m.safetensors", "numbers.csv"], "no column 'x0'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_two(case, run, tmp_path):
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "bare.csv").write_text("1,2\n3,4\n")
    (tmp_path / "twice.csv").write_text("1.0,1.0\n3,4\n")
    (tmp_path / "lacking.csv").write_text("1.0,NA\n3,4\n")
    (tmp_path / "spaces.csv").write_text("a b\n1 2\n")
    (tmp_path / "blank.csv").write_text("")
    (tmp_path / "hollow.csv").write_text("a,b\n1,\n2,NA\n")
    (tmp_path / "words.csv").write_text("v,w\nx,y\nz,t\n")
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n5,7\n")
    for name in ("noise.csv", "noise.parquet"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 3)
    jaxgmm.save(tmp_path / "m.safetensors", random_mixture("full"))
    jaxgmm.save(tmp_path / "x.safetensors", random_mixture("full"), {"columns": "not json"})
    (tmp_path / "x.csv").write_text("x0,x1\n1,2\n")
    arguments, message = BAD[case]
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("jaxgmm: ")
    assert len(err.strip().splitlines()) == 1
    assert pytest.importorskip("re").search(message, err), err


@pytest.mark.slow
def test_the_installed_command(tmp_path):
    """README's first command, as a process of its own."""
    command = [sys.executable, "-c", "from jaxgmm.cli import main; main()", "fit", str(DATA / "faithful.csv")]
    done = subprocess.run(
        [*command, "--components", "2", "--restarts", "2", "--plot", "fit.png"],
        cwd=tmp_path, capture_output=True, text=True, env=_environment(tmp_path), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "272 of 272 rows" in done.stdout
    assert "-1130.264" in done.stdout
    assert list((tmp_path / "cache").rglob("*-cache"))


def _environment(tmp_path):
    import os

    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "COLUMNS": "120"}


@pytest.fixture
def shops(tmp_path):
    """Three shops, one of two kinds of sales; a row without a shop, and one without a number."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "shop": ["north"] * 60 + ["a/b"] * 40 + ["small"] * 4 + [None, "north"],
            "price": [*rng.normal(size=60), *rng.normal(size=20), *(9 + rng.normal(size=20)), *rng.normal(size=4), 1.0, None],
        }
    )
    frame.write_csv(tmp_path / "sales.csv")
    return tmp_path


def test_groups_are_fitted_one_by_one(run, shops):
    command = ["fit", "sales.csv", "--group", "shop", "--components", "1:2", "--restarts", "2"]
    code, out, err = run(*command, "--labels", "labels.csv", "--output", "models", "--json")
    assert code == 0
    assert "left out 1 rows without a shop" in err
    report = json.loads(out)
    found = [(g["group"], g["rows_used"], g["components"]) for g in report["groups"]]
    assert found == [("a/b", 40, 2), ("north", 60, 1), ("small", 4, 1)]
    labels = pl.read_csv("labels.csv")
    assert labels.height == 106
    assert labels["component"].null_count() == 2
    second = labels["component"][60:100].to_numpy()
    np.testing.assert_array_equal(second == second[0], np.arange(40) < 20)
    files = sorted(path.name for path in (shops / "models").iterdir())
    assert files == ["0000_a_b.safetensors", "0001_north.safetensors", "0002_small.safetensors"]
    assert jaxgmm.load_metadata(shops / "models" / files[0])["group"] == "a/b"
    assert labels.columns == ["row", "group", "component", "probability"]
    assert labels["group"][[0, 60, 104]].to_list() == ["north", "a/b", None]
    code, out, _ = run("predict", "models", "sales.csv")
    assert code == 0
    assert out == (shops / "labels.csv").read_text()
    (shops / "models" / files[2]).unlink()
    code, out, err = run("predict", "models", "sales.csv")
    assert "models has no model of the group small: labels of 4 rows are left blank" in err
    assert pl.read_csv(out.encode())["component"].null_count() == 6
    code, _, err = run(*command, "--output", "models")
    assert code == 2
    assert "models holds models already" in err
    (shops / "new").mkdir()
    out = run(*command, "--output", "new")[1]
    assert "A mixture for each shop" in out
    assert "wrote 3 models to new" in out


def test_groups_of_numbers_come_in_their_order_and_tiny_ones_keep_the_smallest_mixture(run, tmp_path):
    rng = np.random.default_rng(0)
    year = [9.0] * 12 + [10.0] * 12 + [100.0] * 2 + [np.nan]
    frame = pl.DataFrame({"year": year, "x": rng.normal(size=27), "y": rng.normal(size=27)})
    frame.write_csv(tmp_path / "t.csv")
    code, out, err = run("fit", "t.csv", "--group", "year", "--components", "1:2", "--restarts", "1", "--json")
    assert code == 0
    groups = json.loads(out)["groups"]
    assert [group["group"] for group in groups] == ["9", "10", "100"]
    assert (groups[2]["status"], groups[2]["components"]) == ("DEGENERATE", 1)
    assert "every number of components is degenerate in 1 group, and the smallest is kept: 100" in err
    assert "left out 1 rows without a year" in err


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--group", "shap"], "there is no column 'shap'"),
        (["--group", "shop", "--plot", "x.png"], "--plot draws one mixture"),
        (["--group", "shop", "--columns", "shop,price"], "--columns names 'shop', by which --group divides the rows"),
        (["--group", "shop", "--components", "1:99"], "asks for up to 99, and the largest group has 60 complete rows"),
        (["--group", "shop", "--output", "sales.csv"], "sales.csv is a file; with --group it is the folder of the models"),
    ],
)
@pytest.mark.usefixtures("shops")
def test_groups_that_cannot_be_say_so(run, more, match):
    code, _, err = run("fit", "sales.csv", *more)
    assert code == 2
    assert match in err
