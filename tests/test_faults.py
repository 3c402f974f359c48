"""Nothing lost, nothing let in: killed commands, full disks, files that claim more than they hold, damaged and hostile content.

What takes longer is in `python -m benchmarks.faults`.
"""

import io
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poster_genres import dataset, figures
from poster_genres.dataset import File, list_files, open_archive, read_bytes
from poster_genres.errors import InputError, printable
from poster_genres.files import whole_file, whole_folder, write_json
from poster_genres.finished_run import RUN, read_run
from poster_genres.fusion import equal_weights
from poster_genres.matching import Posters
from poster_genres.metadata import read_metadata
from poster_genres.model import Model, load_model, save_model, seal
from poster_genres.network import STANDARD, find_architecture
from poster_genres.objects import Detection, parse_objects
from poster_genres.parameters import read_parameters
from poster_genres.tables import read_table
from poster_genres.tracking import Tracking, connect, end_killed_runs, find_runs, held_folder
from stages.detect import Store
from stages.train import read_checkpoint, save_checkpoint
from tests.conftest import ROOT, jpeg

CPU = torch.device("cpu")
CONFUSIONS = ["missed", "predicted", "share", "elsewhere", "low", "high"]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@contextmanager
def process(program: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process in a folder, once it has printed a line; killed at the end."""
    words = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "there\n"
        yield child
        child.kill()


@contextmanager
def full_disk() -> Iterator[None]:
    """As on a full disk: no file can have more than 4,096 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    program = """if True:
        import time
        from pathlib import Path
        from poster_genres.files import whole_file, whole_folder
        with whole_folder(Path("out")) as folder, whole_file(Path("table.csv")) as table:
            (folder / "a").write_text("half")
            table.write_text("half")
            print("there", flush=True)
            time.sleep(600)"""
    with process(program, tmp_path) as child:
        with whole_file(tmp_path / "other.csv") as temporary:
            temporary.write_text("whole")
        assert hidden(tmp_path) == [f".{name}.{child.pid}.part" for name in ("out", "out.old", "table.csv")]
        child.send_signal(signal.SIGKILL)
        child.wait()
    (tmp_path / ".holiday.part").mkdir()  # of another program
    (tmp_path / ".holiday.part" / "film.mkv.part").touch()
    with whole_file(tmp_path / "other.csv") as temporary:
        temporary.write_text("whole again")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".holiday.part", "other.csv"]
    assert (tmp_path / ".holiday.part" / "film.mkv.part").exists()


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("first", "second"):
        with whole_folder(out) as folder:
            (folder / name).write_text(name)
        assert [path.name for path in out.iterdir()] == [name]
    with pytest.raises(ZeroDivisionError), whole_folder(out) as folder:
        (folder / "third").write_text(str(1 / 0))
    assert [path.name for path in out.iterdir()] == ["second"]
    assert hidden(tmp_path) == []


def test_two_processes_may_write_the_same_folder_at_once(tmp_path: Path) -> None:
    program = """if True:
        from pathlib import Path
        from poster_genres.files import whole_folder
        print("there", flush=True)
        for i in range(200):
            with whole_folder(Path("out")) as folder:
                (folder / "a").write_text(str(i))
                (folder / "b").write_text(str(i))"""
    with process(program, tmp_path) as first, process(program, tmp_path) as second:
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text() == "199"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_json(folder / "a.json", ["x" * 9999]),
        lambda folder: torch_file(folder / "a.pt"),
        lambda folder: figures.save_png(figures.draw_confusions(pd.DataFrame(columns=CONFUSIONS)), folder / "a.png", 100),
        lambda folder: fill(folder / "a.csv"),
        lambda folder: put(folder / "a.db"),
    ],
)
def test_a_full_disk_is_one_line_with_the_folder(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "room")
    folder = tmp_path / "full"
    with full_disk(), pytest.raises(InputError) as error:
        write(folder)
    assert str(error.value) in (
        f"{folder}: no space left on the disk; make room, and type the same command again",
        f"{folder / 'a.db'}: disk I/O error; is there room, and may it be written?",  # which SQLite says of a limit
    )
    assert [path.name for path in folder.iterdir() if path.name != "a.db"] == []


def torch_file(path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(torch.zeros(9999), file)


def fill(path: Path) -> None:
    with whole_file(path) as temporary:
        pd.DataFrame(np.zeros((999, 9))).to_csv(temporary)


def put(path: Path) -> None:
    store = Store(path)
    store.put("a", "b", "x" * 99999)


def test_a_store_that_is_in_use_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    put(path)
    store = Store(path)
    store.connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError) as error:
        store.put("c", "d", "e")
    assert str(error.value) == f"{path}: database is locked; another command uses it: try again when that has ended"
    other.close()
    path.write_bytes(b"no database" * 999)
    with pytest.raises(InputError) as error:
        Store(path)
    assert str(error.value) == f"{path}: file is not a database; remove it, and what is on posters is found again"


def test_a_checkpoint_that_cannot_be_written_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "training" / "a.pt"
    state = {"weights": torch.arange(9999)}
    assert save_checkpoint(path, state, True)
    with full_disk():
        assert not save_checkpoint(path, {"weights": torch.zeros(9999)}, True)
        assert not save_checkpoint(path, {"weights": torch.zeros(9999)}, False)
    assert capsys.readouterr().err == (
        f"warning: no checkpoint ({path.parent}: no space left on the disk); training goes on, but could not be resumed\n"
    )
    # The one before is whole.
    found = read_checkpoint(path)
    assert found is not None
    assert torch.equal(found["weights"], state["weights"])
    assert hidden(path.parent) == []
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read_checkpoint(path) is None


@pytest.mark.slow
def test_a_store_whose_disk_is_full_is_one_warning_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})
    experiment = connect()
    tracking = Tracking({})
    with full_disk():
        tracking.attempt(lambda: mlflow.MlflowClient().create_run(experiment, tags={"training": "x" * 4000}))
    assert capsys.readouterr().err == (
        "warning: no MLflow (OperationalError: disk I/O error); all goes on without it, and `python -m stages.track` logs the "
        "finished run later\n"
    )
    assert mlflow.search_runs([experiment], output_format="list") == []


@pytest.mark.slow
def test_runs_of_killed_trainings_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})
    experiment = connect()
    for training in ("killed", "living", "unknown"):
        if training != "unknown":
            mlflow.MlflowClient().create_run(experiment, tags={"training": training})
    program = """if True:
        import sys, time
        from poster_genres.tracking import hold
        hold("{}")
        print("there", flush=True)
        time.sleep(600)"""
    with process(program.format("living"), tmp_path):
        for training in ("killed", "unknown"):
            with process(program.format(training), tmp_path) as child:
                child.kill()
                child.wait()
        assert sorted(path.name for path in held_folder().iterdir()) == ["killed", "living", "unknown"]
        end_killed_runs(experiment)
        assert [path.name for path in held_folder().iterdir()] == ["living"]
        statuses = [find_runs(experiment, training)[0].info.status for training in ("killed", "living")]
        assert statuses == ["KILLED", "RUNNING"]


def test_control_characters_are_shown_as_text() -> None:
    assert printable("Drama é 日本 😀") == "Drama é 日本 😀"
    assert printable("\x1b[31mred\n\x07\x9b\u202e\ud800") == r"\x1b[31mred\n\x07\x9b\u202e\ud800"


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "3", '{"name": "a"}', '{"name": "a", "parameters": {}, "tags": {"training": "../x"}}']
)
def test_a_run_that_is_damaged_is_one_line(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RUN.parent.mkdir()
    RUN.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_run()
    assert str(error.value) == f"{RUN}: damaged; remove it, and `dvc repro` makes it again"


LAUGHS = ", ".join(["[&a0 [x, x, x, x, x]", *(f"&a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]" for i in range(30))]) + "]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 0 ", f"seed: {'9' * 5000} ", "line 13: a number of 5000 digits"),
        ("metadata: auto ", f"metadata: {'[' * 2000}{']' * 2000} ", "lists or keys in each other, too deep to be read"),
        (
            "metadata: auto ",
            f"metadata: {LAUGHS} ",
            "metadata: should be the name of a file, a list of such names, or 'auto', not [['x', 'x', 'x', 'x', ...], "
            "[[...], [...], [...], [...]], [[...], [...], [...], [...]], [[...], [...], [...], [...]], ...]",
        ),
        (
            "  epochs:\n  - 2\n",
            f"  epochs: {LAUGHS}\n  seed:\n",
            "sweep.epochs: should be a list of one value or more, or a range as {low: 0.0001, high: 0.01, log: true}, not "
            "[['x', 'x', 'x', 'x', ...], [[...], [...], [...], [...]], [[...], [...], [...], [...]], "
            "[[...], [...], [...], [...]], ...]",
        ),
        ("processes: 1 ", "processes: 1000000 ", "processes: should be a whole number from 1 to 1000, not 1000000"),
        ("batch_size: auto", "batch_size: 1e9", "batch_size: should be a whole number from 2 to 65536, or 'auto', not '1e9'"),
    ],
)
def test_parameters_without_end_are_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    own = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert old in own
    path = tmp_path / "params.yaml"
    path.write_text(own.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_parameters(path)
    assert str(error.value) == f"{path}: {message}"


def test_genres_are_drawn_as_text_and_quietly(tmp_path: Path) -> None:
    names = ["$100", "a$b$c", r"$\frac{$", "😀", "日本"]
    numbers = {"positives": 3, "average_precision": 0.5, "prior_average_precision": 0.2, "low": 0.1, "high": 0.9}
    swapped = {"missed": names, "predicted": names[::-1], "share": 0.5, "elsewhere": 0.2, "low": 0.1, "high": 0.9}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = (figures.draw_genres(pd.DataFrame({"genre": names} | numbers)), figures.draw_confusions(pd.DataFrame(swapped)))
        for figure in drawn:
            figures.save_png(figure, tmp_path / "a.png", 50)
            assert r"$\frac{$" in figures.as_svg(figure, "about")
        poster, maps = np.zeros((60, 40, 3), np.uint8), np.zeros((len(names), 60, 40))
        found = [Detection("person", 0.9, 0, 0, 0.5, 0.5, "$5$ 😀")]
        figures.draw_explanation(poster, found, names, np.full(5, 0.5), maps, np.ones((1, 5)), tmp_path / "a.png")


def test_large_posters_are_left_out_unread(tmp_path: Path) -> None:
    (tmp_path / "small.jpg").write_bytes(jpeg((9, 9, 9)))
    (tmp_path / "large.jpg").touch()
    os.truncate(tmp_path / "large.jpg", 50_000_000_000)
    posters = Posters(str(tmp_path), list_files(tmp_path), 1_000_000)
    assert [file.name for file in posters.files] == ["small.jpg"]
    assert [file.name for file in posters.too_large] == ["large.jpg"]
    assert posters.match(["small", "large"], ["", ""])[0] == [0, None]


def test_long_texts_are_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "readme.txt"
    for encoding in ("utf-8", "utf-16"):
        path.write_text("A data set of posters\n", encoding=encoding)
        os.truncate(path, 50_000_000_000)
        assert read_table(tmp_path, File("", path.name, path.stat().st_size)) == []
        path.write_text("id,genres\n" + "a,Drama\n" * 20_000, encoding=encoding)
        table = read_table(tmp_path, File("", path.name, path.stat().st_size))
        assert table is not None
        assert len(table[0].rows) == 20_000


def test_an_archive_is_read_as_far_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(30_000_000))
    data = path.read_bytes()
    # In both of its headers the member says that it is small.
    path.write_bytes(data.replace((30_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert list_files(tmp_path) == [File("a.zip", "a.jpg", 10)]
    with pytest.raises(zipfile.BadZipFile):
        read_bytes(tmp_path, "a.zip", "a.jpg")
    open_archive.cache_clear()
    monkeypatch.setattr(dataset, "MAX_DIRECTORY", 20)
    with pytest.raises(InputError) as error:
        list_files(tmp_path)
    assert str(error.value) == f"{path}: has too many files for one archive; unpack it, or make several of it"


# The content of models.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a small model."""
    network = find_architecture("tutorial").build(2, 80, 80)
    names, normalisation = ["Comedy", "Drama"], (list(STANDARD.mean), list(STANDARD.std))
    model = Model("tutorial", names, 80, 80, *normalisation, [network], [0.5, 0.2], fusion=equal_weights(["networks"], 2))
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(model, path)
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_model(path, CPU)
    return str(error.value).removeprefix(f"{path}: ")


CHANGED = "changed since it was written: its SHA-256 is another; copy or train it again"
STRANGE = "not a model that this pipeline wrote; it was refused and no code in it was run"


def test_a_flipped_bit_is_refused(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved)
    assert load_model(path, CPU).genres == ["Comedy", "Drama"]
    random = np.random.default_rng(0)
    places = {
        0,
        1,
        len(saved) - 1,
        len(saved) - 72,
        *random.integers(0, len(saved), 10),
        *(len(saved) - random.integers(0, 300, 10)),
    }
    for place in places:
        data = bytearray(saved)
        data[place] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(data)
        assert refusal(path) in (CHANGED, STRANGE)
    path.write_bytes(saved[: len(saved) // 2])
    assert refusal(path) == STRANGE
    with zipfile.ZipFile(io.BytesIO(saved)) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert refusal(path) == STRANGE


def changed(saved: bytes, path: Path, change: dict[str, Any]) -> Path:
    content = torch.load(io.BytesIO(saved), weights_only=True)
    with path.open("wb") as file:
        torch.save({key: value for key, value in (content | change).items() if value is not ...}, file)
    seal(path)
    return path


DAMAGED = "damaged, or from another version of this project: "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": torch.tensor([float("nan")])}, "prior holds numbers that are not finite"),
        ({"networks": [{"a": torch.zeros(1).expand(10**6, 10**6)}]}, "networks.0.a claims more numbers than the file has"),
        ({"networks": [{"a": torch.zeros(3).to_sparse()}]}, "networks.0.a is no plain tensor"),
        ({"networks": 3}, "'int' object is not iterable"),
        ({"networks": []}, "its weights are not those of its parts"),
        ({"networks": [{}]}, "Error(s) in loading state_dict for Network:"),
        ({"genres": ["Comedy", "\x1b[31mDrama"]}, r"genres: 1: '\\x1b[31mDrama' is no name"),
        ({"genres": ["Comedy", "Comedy"]}, "not one share for each genre"),
        ({"genres": "ab"}, "genres: Input should be a valid list"),
        ({"height": 10**9}, "height: Input should be less than or equal to 8192"),
        ({"std": [1.0, 1.0, 0.0]}, "std: a deviation that is not above 0"),
        ({"mean": [float("inf")] * 3}, "mean: 0: Input should be a finite number"),
        ({"prior": [0.1]}, "not one share for each genre"),
        ({"thresholds": [0.1]}, "not one threshold for each genre"),
        ({"architecture": "os.path/x"}, "architecture 'os.path/x' is unknown"),
        ({"architecture": "hf/x"}, "a backbone belongs to hf/…, and to no other architecture"),
        ({"backbone": {"model_type": "vit"}}, "a backbone belongs to hf/…, and to no other architecture"),
        ({"architecture": "hf/x", "backbone": {"a": 1}}, "'model_type'"),
        ({"detectors": {"onnx//etc/passwd": "1"}}, "detector 'onnx//etc/passwd' is unknown"),
        ({"pretrained": {"package": "a", "sha256": "b"}}, "tutorial has no pretrained weights"),
        ({"fusion": {}}, "'parts'"),
        ({"words": {}}, "'vocabulary'"),
        ({"words": []}, "list indices must be integers or slices, not str"),
        ({"objects": 0}, "'int' object is not subscriptable"),
        ({"threshold": ...}, "threshold: Field required"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_a_model_with_wrong_content_is_one_line(saved: bytes, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert refusal(changed(saved, tmp_path / "model.pt", change)) == DAMAGED + message


# Readers of whatever people have, with the seeds that found something.

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NESTED = st.recursive(
    ANYTHING, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=6
)
FUZZ = settings(
    deadline=None,
    max_examples=int(os.environ.get("FAULTS_EXAMPLES", "30")),
    derandomize="FAULTS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
ROWS = st.lists(st.lists(st.text(max_size=9), min_size=1, max_size=5), min_size=1, max_size=5)
BYTES = st.binary(max_size=200) | ROWS.map(
    lambda rows: "\n".join(",".join(row) for row in [["id", "genres"], *rows]).encode("utf-8", "surrogatepass")
)
SUFFIXES = st.sampled_from([".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".xlsx"])


@given(data=BYTES, suffix=SUFFIXES)
@example(data=b"id,genres\na,Drama,Comedy\n1,2\n", suffix=".csv")
@example(data="id,genres\na,\ud800\n".encode("utf-8", "surrogatepass"), suffix=".csv")
@example(data=b'{"imdbID": "a", "Genre": "\\ud800"}', suffix=".txt")
@example(data=b"[" * 100_000, suffix=".json")
@FUZZ
def test_any_table_is_read_or_refused_in_one_line(tmp_path: Path, data: bytes, suffix: str) -> None:
    folder = tmp_path / "posters"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"movies{suffix}").write_bytes(data)
    (folder / "a.jpg").write_bytes(b"")
    files = list_files(folder)
    try:
        metadata = read_metadata(folder, files, Posters(str(folder), [file for file in files if file.suffix == ".jpg"]))
        assert all(genre == printable(genre) for genres in metadata.movies["genres"] for genre in genres)
    except InputError as error:
        assert "\n" not in printable(str(error))


@given(data=BYTES)
@example(data=b"id,label,confidence,left,top,width,height\na,b,nan,0,0,1,1\n")
@example(data=b"id,label,confidence,left,top,width,height\na,b,1,0,0,1,1,1,1,1\n")
@FUZZ
def test_any_detections_are_read_or_refused(data: bytes) -> None:
    for whole in (data, b"id,label,confidence,left,top,width,height,text\n" + data):
        try:
            for objects in parse_objects(whole, "detections.csv").values():
                assert all(np.isfinite(detection[1:6]).all() for detection in objects)
        except InputError:
            pass


@given(text=st.text(max_size=200) | st.lists(st.sampled_from("seed: -[]{}&a*!?|>'\"\n\t0:.,#%@"), max_size=60).map("".join))
@FUZZ
def test_any_parameters_are_read_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    for whole in (text, (ROOT / "params.yaml").read_text(encoding="utf-8").replace("seed: 0 ", f"seed: {text}\n")):
        path.write_bytes(whole.encode("utf-8", "surrogatepass"))
        try:
            read_parameters(path)
        except InputError as error:
            assert len(str(error)) < 2000


@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5), size=st.integers(0, 600))
@example(flips=[(1733, 0)], size=0)
@example(flips=[(1730, 0)], size=0)
@FUZZ
def test_any_archive_is_read_or_refused(tmp_path: Path, flips: list[tuple[int, int]], size: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", jpeg((9, 9, 9)))
        archive.writestr("movies.csv", "id,genres\na,Drama\n")
    data = bytearray(buffer.getvalue())
    for place, value in flips:
        data[-1 - place % min(len(data), 400)] = value
    (tmp_path / "a.zip").write_bytes(data[: len(data) - size] if size < 300 else data)
    open_archive.cache_clear()
    try:
        files = list_files(tmp_path)
        read_metadata(tmp_path, files, Posters(str(tmp_path), [file for file in files if file.suffix == ".jpg"]))
    except InputError:
        pass


@given(key=st.text(max_size=9) | st.integers(0, 40), value=NESTED)
@example(key="\n", value=None)
@FUZZ
def test_any_model_is_loaded_or_refused(saved: bytes, tmp_path: Path, key: str | int, value: object) -> None:
    keys = list(torch.load(io.BytesIO(saved), weights_only=True))
    change = {keys[key % len(keys)] if isinstance(key, int) else key: value}
    try:
        model = load_model(changed(saved, tmp_path / "model.pt", change), CPU)
        assert all(genre.isprintable() for genre in model.genres)
    except InputError as error:
        assert "\n" not in str(error)
