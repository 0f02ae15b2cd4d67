"""`tokenry select-data`: the strength of documents, a classifier of both ends, and the shards that it keeps."""

import gzip
import importlib.util
import json
import random
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from tests.tiny.chats import write_model, write_rows
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.core.io.corpus import read_shard
from tokenry.verbs.select_data._shards import Workers

QUICK = ("--device", "cpu", "--dtype", "float32")
GOOD, BAD = ("What is the answer? The answer is 42, of course!", "7 0 0 3 0 9 0 0 1 0 5")
HAS_FASTTEXT = importlib.util.find_spec("fasttext") is not None


def documents(count, seed=0):
    """Sentences of one domain and numbers of another."""
    draws = random.Random(seed)
    for number in range(count):
        words = (GOOD if number % 2 else BAD).split()
        text = " ".join(draws.choices(words, k=draws.randint(4, 30)))
        yield {"text": text, "domain": "sentences.org" if number % 2 else "numbers.org", "id": number}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("select-data")


@pytest.fixture(scope="module")
def corpus(folder):
    """Three shards of 40 documents, one gzipped, one Parquet in a folder of its own."""
    rows = list(documents(120))
    inside = folder / "corpus"
    (inside / "more").mkdir(parents=True)
    write_rows(inside / "a.jsonl", rows[:40])
    (inside / "b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows[40:80]).encode())
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[80:]), inside / "more/c.parquet")
    return inside


@pytest.fixture(scope="module")
def models(folder):
    """One model, and the same with a layer less."""
    model = write_model(folder / "model")
    return f"{model}@1", str(model)


def write_scores(path, rows, header="model,arc,mmlu"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def scores(folder, models):
    return write_scores(folder / "scores.csv", [f"{models[0]},20,30", f"{models[1]},40,30"])


@pytest.fixture(scope="module")
def strength(corpus, models, scores, folder):
    given = (corpus, "--models", ",".join(models), "--benchmarks", scores, *QUICK, "--window", 64)
    return check_verb("select-data strength", *given, output=folder / "strength"), given


@pytest.fixture(scope="module")
def labelled(folder):
    """Documents whose strength is that of their kind."""
    rows = [row | {"strength": float(row["domain"] == "sentences.org")} for row in documents(80, seed=1)]
    rows.append({"text": "", "strength": None})
    return write_rows(folder / "labelled.jsonl", rows)


@pytest.fixture(scope="module")
def scorer(labelled, folder):
    saved = check_verb(
        "select-data train", labelled, "--scorer", "linear", "--held-out", 0.2, output=folder / "scorer"
    )
    return saved, folder / "scorer/scorer.npz"


def test_the_strength_of_every_document_is_measured_and_kept(strength, folder):
    saved, _ = strength
    assert (saved["documents"], saved["without_loss"]) == (120, 0)
    assert sum(saved["counts"]) == 120
    assert len(saved["counts"]) == 2, "one pair of models"
    assert [row["benchmark"] for row in saved["models"]] == [25.0, 35.0]
    assert {row["domain"] for row in saved["domains"]} == {"sentences.org", "numbers.org"}
    rows = [json.loads(line) for line in (folder / "strength/strength.jsonl").read_text().splitlines()]
    assert {row["text"] for row in rows} == {row["text"] for row in documents(120)}
    for row in rows:
        assert row["strength"] == float(row["nll"][0] > row["nll"][1])
    assert saved["seconds_of_one_process"] > 0
    assert saved["characters"] == sum(len(row["text"]) for row in rows)
    assert "took 2 models over a sample of" in (folder / "strength/report.html").read_text()


def test_what_was_measured_is_not_measured_again(strength, folder, models, monkeypatch):
    saved, given = strength
    monkeypatch.setattr("tokenry.data.document_bpc", None)
    again = tokenry("select-data strength", *given, "--output", folder / "strength", "--json", "--quiet")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["mean"] == saved["mean"]


def test_another_sample_needs_another_folder(strength, folder):
    check_refused(
        "select-data strength", *strength[1], "--per-domain", 3, "--output", folder / "strength",
        words="holds the strength of another corpus or sample: name another folder",
    )  # fmt: skip


def test_another_window_measures_the_same_sample_again(corpus, models, scores, tmp_path):
    given = (corpus / "a.jsonl", "--models", ",".join(models), "--benchmarks", scores, "--per-domain", 5)
    found = [
        json.loads(tokenry("select-data strength", *given, "--window", window, "--output", tmp_path / "strength", "--json", "-q").stdout)
        for window in (8, 16)
    ]  # fmt: skip
    losses = [[row["bits_per_character"]["value"] for row in one["models"]] for one in found]
    assert losses[0] != losses[1]
    assert found[0]["characters"] == found[1]["characters"]


def test_a_single_document_is_too_few(models, scores, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "only one"}\n')
    check_refused(
        "select-data strength", tmp_path / "one.jsonl", "--models", ",".join(models), "--benchmarks", scores,
        "--output", tmp_path / "strength",
        words="1 of 1 document can be measured under every model, and at least 2 are needed",
    )  # fmt: skip


def test_one_column_of_the_benchmarks_can_be_chosen(corpus, models, scores, tmp_path):
    output = tmp_path / "strength"
    given = (corpus / "a.jsonl", "--models", ",".join(models), "--benchmarks", scores, "--benchmark", "arc")
    saved = check_verb("select-data strength", *given, "--per-domain", 5, *QUICK, output=output)
    assert [row["benchmark"] for row in saved["models"]] == [20.0, 40.0]
    assert saved["documents"] == 10


def test_a_classifier_says_which_words_count(scorer, folder):
    saved, file = scorer
    assert file.exists()
    assert saved["positive"] == {"documents": 40, "lowest_strength": 1.0}
    assert saved["accuracy"]["samples"] == 16
    assert saved["auroc"] == 1.0
    weights = {row["word"]: row["weight"] for row in saved["words"]}
    assert weights["answer"] > 0 > weights["0"]
    said = " ".join(tokenry("report", folder / "scorer").stdout.split())
    assert "Words that speak for a document" in said


@pytest.mark.skipif(not HAS_FASTTEXT, reason="fasttext is not installed (tokenry[data])")
def test_the_classifier_of_the_paper_is_a_file_of_fasttext(labelled, tmp_path):
    import fasttext

    saved = check_verb(
        "select-data train", labelled, "--bucket", 1000, "--dim", 8, "--extremes", 20, "--epoch", 30,
        output=tmp_path / "scorer",
    )  # fmt: skip
    assert saved["positive"]["documents"] == saved["negative"]["documents"] == 20
    model = fasttext.load_model(str(tmp_path / "scorer/scorer.bin"))
    assert set(model.get_labels()) == {"__label__1", "__label__0"}


def test_a_strength_folder_is_learned_from(strength, folder, tmp_path):
    result = tokenry(
        "select-data train", folder / "strength", "--extremes", 30, "--scorer", "linear", "--output", tmp_path / "out"
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def kept_ids(output: Path):
    found = []
    for shard in sorted((output / "documents").rglob("*.*")):
        for batch in read_shard(shard):
            rows = batch.rows.to_pylist() if hasattr(batch.rows, "to_pylist") else map(json.loads, batch.rows)
            found += [row["id"] for row in rows]
    return found


def test_the_best_of_every_shard_is_kept(scorer, corpus, folder):
    output = folder / "selected"
    saved = check_verb("select-data filter", corpus, scorer[1], "--keep", 0.3, output=output)
    ids = kept_ids(output)
    assert len(ids) == saved["kept_documents"]
    assert all(number % 2 for number in ids), "sentences alone"
    assert saved["documents"] == 120
    assert 0.25 < saved["kept_characters"] / saved["characters"] < 0.4
    assert {file.name for file in (output / "documents").rglob("*.*")} == {
        "a.jsonl",
        "b.jsonl.gz",
        "c.parquet",
    }
    assert saved["done_before"] == 0
    assert {row["domain"]: row["kept"] > 0 for row in saved["domains"]} == {
        "sentences.org": True,
        "numbers.org": False,
    }


def test_shards_that_are_done_are_not_done_again(scorer, corpus, folder, tmp_path):
    output = tmp_path / "selected"
    given = ("select-data filter", corpus, scorer[1], "--keep", 0.3, "--output", output, "--json", "--quiet")
    first = json.loads(tokenry(*given).stdout)
    (output / "shards/a.jsonl.json").unlink()
    other = output / "documents/more/c.parquet"
    before = other.stat().st_mtime_ns
    again = json.loads(tokenry(*given).stdout)
    assert again["done_before"] == 2
    assert other.stat().st_mtime_ns == before
    assert {**again, "done_before": 0, "megabytes_per_second": 0} == {**first, "megabytes_per_second": 0}
    check_refused(
        "select-data filter", corpus, scorer[1], "--keep", 0.2, "--output", output,
        words="holds what another run kept (another corpus, classifier or share)",
    )  # fmt: skip


def test_a_share_of_one_keeps_everything(scorer, corpus, tmp_path):
    saved = check_verb("select-data filter", corpus, scorer[1], "--keep", 1.0, output=tmp_path / "all")
    assert saved["kept_documents"] == 120
    assert (tmp_path / "all/documents/a.jsonl").read_bytes() == (corpus / "a.jsonl").read_bytes()


def test_a_threshold_above_every_score_keeps_nothing_and_says_so(scorer, corpus, tmp_path):
    saved = check_verb("select-data filter", corpus, scorer[1], "--threshold", 2, output=tmp_path / "none")
    assert saved["kept_documents"] == 0
    said = " ".join(tokenry("report", tmp_path / "none").stdout.split())
    assert "Nothing was kept" in said


def test_a_beginning_unlike_the_rest_is_warned_of(scorer, folder, tmp_path):
    rows = sorted(documents(60, seed=3), key=lambda row: row["id"] % 2)
    corpus = write_rows(tmp_path / "sorted.jsonl", rows)
    check_verb("select-data filter", corpus, scorer[1], "--calibrate", 30, output=tmp_path / "out")
    said = " ".join(tokenry("report", tmp_path / "out").stdout.split())
    assert "The threshold was taken from the beginnings of the shards" in said


def test_the_standard_input_is_filtered_while_it_is_read(scorer, corpus, tmp_path, monkeypatch):
    lines = StringIO((corpus / "a.jsonl").read_text())
    monkeypatch.setattr("tokenry.core.io.corpus.sys", SimpleNamespace(stdin=lines))
    saved = check_verb("select-data filter", "-", scorer[1], "--keep", 0.5, output=tmp_path / "out")
    assert saved["documents"] == 40
    assert len(kept_ids(tmp_path / "out")) == saved["kept_documents"] > 0
    check_refused(
        "select-data filter", "-", scorer[1], "--keep", 0.5, "--output", tmp_path / "out",
        words="holds what was kept of a standard input before",
    )  # fmt: skip


@pytest.mark.parametrize("share", [0, 1.5])
def test_no_share_is_refused(scorer, corpus, share):
    check_refused("select-data filter", corpus, scorer[1], "--keep", share, words="--keep must be in (0, 1]")


def test_filters_that_cannot_run_are_refused(scorer, corpus, folder, tmp_path):
    (tmp_path / "other.bin").write_bytes(b"no model")
    for given, words in (
        ((corpus, tmp_path / "other.bin"), "is no fastText model"),
        ((corpus, tmp_path / "missing.bin"), "cannot be read as a scorer"),
        ((tmp_path / "nothing", scorer[1]), "the corpus"),
        (("-", scorer[1], "--ray"), "cannot be read by several workers"),
        ((corpus, scorer[1], "--calibrate", 0), "--calibrate must be at least 1"),
        ((corpus, scorer[1], "--actors", 0), "--actors must be at least 1"),
        ((corpus, scorer[1], "--output", tmp_path / "page.html"), "must name a folder"),
    ):
        output = () if "--output" in given else ("--output", tmp_path / "out")
        check_refused("select-data filter", *given, *output, words=words)


def test_strengths_that_cannot_be_measured_are_refused(corpus, models, scores, tmp_path):
    one, two = models
    bad = {
        "unknown": (
            [f"{one},1,2", f"{two},2,3", "gpt,3,4"],
            "names the model gpt, which is not among --models",
        ),
        "lacking": ([f"{one},1,2"], f"has no benchmark of the model {two}"),
        "words": ([f"{one},1,2", f"{two},2,high"], "must be numbers, got ['2', 'high']"),
        "equal": ([f"{one},1,2", f"{two},2,1"], "all 2 models have the benchmark 1.5"),
        "nan": ([f"{one},1,2", f"{two},nan,1"], "the benchmark of model 2 is nan"),
    }
    empty = write_rows(tmp_path / "empty.jsonl", [{"text": ""}, {"text": " "}])
    cases = [
        ((corpus, "--models", one, "--benchmarks", scores), "1 model is given: name at least two"),
        (("-", "--models", f"{one},{two}", "--benchmarks", scores), "cannot come from the standard input"),
        ((corpus, "--models", f"{one},{two}", "--benchmarks", scores, "--benchmark", "bbh"), "has no column bbh"),
        ((corpus, "--models", f"{one},{two}", "--benchmarks", scores, "--window", 5, "--stride", 6), "--stride must be from 1 to"),
        ((empty, "--models", f"{one},{two}", "--benchmarks", scores), "the corpus holds no text"),
    ]  # fmt: skip
    for name, (rows, words) in bad.items():
        table = write_scores(tmp_path / f"{name}.csv", rows)
        cases.append(((corpus, "--models", f"{one},{two}", "--benchmarks", table), words))
    no_column = write_scores(tmp_path / "none.csv", ["a,1"], header="name,arc")
    cases.append(
        ((corpus, "--models", f"{one},{two}", "--benchmarks", no_column), "must have a column `model`")
    )
    for number, (given, words) in enumerate(cases):
        check_refused(
            "select-data strength", *given, *QUICK, "--output", tmp_path / f"out{number}", words=words
        )


def test_depths_that_are_not_there_are_refused(corpus, models, tmp_path):
    for depth, words in (("x", "a depth is given as NAME@LAYERS"), ("9", "a depth must be from 1 to 2")):
        name = f"{models[1]}@{depth}"
        table = write_scores(tmp_path / f"{depth}.csv", [f"{name},1,1", f"{models[1]},2,2"])
        given = (corpus, "--models", f"{name},{models[1]}", "--benchmarks", table, *QUICK)
        check_refused("select-data strength", *given, "--output", tmp_path / f"out-{depth}", words=words)


def test_documents_that_teach_nothing_are_refused(labelled, tmp_path):
    alike = write_rows(tmp_path / "alike.jsonl", [{"text": "a", "strength": 0.5}] * 4)
    without = write_rows(tmp_path / "without.jsonl", [{"text": "a", "strength": "high"}])
    for given, words in (
        ((alike,), "all 4 have the same strength"),
        ((without,), "row 1 needs `text` and a number under `strength`"),
        ((tmp_path,), "holds no strength.jsonl"),
        ((labelled, "--extremes", 41), "choose at most 40"),
        ((labelled, "--extremes", 0), "--extremes must be at least 1"),
        ((labelled, "--held-out", 1), "--held-out must be in [0, 1)"),
        ((labelled, "--threads", 2), "--threads must be at least 10"),
        ((labelled, "--alpha", 0), "alpha must be above 0"),
    ):
        check_refused("select-data train", *given, "--output", tmp_path / "out", words=words)


def test_ray_that_is_not_installed_is_said(scorer, corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    check_refused(
        "select-data filter", corpus, scorer[1], "--ray", "--output", tmp_path / "out", words="Ray is not installed"
    )  # fmt: skip


class FakeDataset:
    """Runs a class of a worker as Ray Data does, in this process."""

    def __init__(self, rows):
        self.rows = rows

    def map_batches(self, worker, fn_constructor_args, batch_size, compute, num_gpus):
        assert (batch_size, compute, num_gpus) == (1, 2, 0.0)
        work = worker(*fn_constructor_args)
        found = [work({"shard": [row["shard"]]}) for row in self.rows]
        return FakeDataset([{"found": value} for batch in found for value in batch["found"]])

    def iter_rows(self):
        return iter(self.rows)


def test_ray_data_gives_every_shard_to_a_worker(scorer, corpus, folder, tmp_path, monkeypatch):
    data = SimpleNamespace(
        DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace()),
        from_items=lambda rows, override_num_blocks: FakeDataset(rows),
        ActorPoolStrategy=lambda size: size,
    )
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True, data=data))
    monkeypatch.setitem(sys.modules, "ray.data", data)
    given = (corpus, scorer[1], "--keep", 0.3, "--ray", "--output", tmp_path / "out", "--json", "--quiet")
    on_ray = json.loads(tokenry("select-data filter", *given).stdout)
    assert on_ray["kept_documents"] == len(kept_ids(tmp_path / "out"))
    assert sorted(kept_ids(tmp_path / "out")) == sorted(kept_ids(folder / "selected"))


def test_from_which_size_ray_pays_follows_from_the_speed():
    assert "One process read 3 MB/s" in Workers(actors=2).pays_from(3.0)
    assert "pays from 180 MB on" in Workers(actors=2).pays_from(3.0)
    assert "pays from 0.80 MB on" in Workers(actors=4).pays_from(0.02, "took 6 models over")
