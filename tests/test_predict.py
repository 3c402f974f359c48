"""Reading a poster's genres: what is printed, and what is refused."""

import json
import pickle
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from poster_genres.errors import InputError
from poster_genres.explanations import attributions, explain
from poster_genres.model import FORMAT, Model, seal
from poster_genres.network import find_architecture
from poster_genres.objects import Detection
from stages.predict import Output, Poster, as_utf8, find_posters, format_genres, objects_of, read_poster
from tests.conftest import MakeOnce, jpeg, make_project, stage

# Each loads torch in a process of its own, or trains.
pytestmark = pytest.mark.slow

HELP = "; see python -m stages.predict --help"
LINE = re.compile(r"^\S+ \((?:0\.0{0,5}[1-9]\d\d|1\.00|0\.00)\)(?: \*)?$")


@pytest.fixture(scope="session")
def trained(make_once: MakeOnce) -> Path:
    def make(folder: Path) -> None:
        make_project(folder, epochs=8, limit=3000)
        for name in ("join", "cache", "train"):
            stage(name, cwd=folder)

    return make_once("trained", make)


def test_three_significant_digits() -> None:
    genres = ["Comedy", "Drama", "Horror", "War", "News"]
    text = format_genres(genres, np.array([0.72849, 0.87, 0.0000123456, 0.9996, 1e-34]), 5, ["War", "Comedy"])
    assert text.splitlines() == ["War (1.00) *", "Drama (0.870)", "Comedy (0.728) *", "Horror (0.0000123)", "News (0.00)"]
    assert format_genres(genres[:2], np.array([0.0, 0.00000123]), 2, []).splitlines() == ["Drama (0.00000123)", "Comedy (0.00)"]
    assert format_genres(genres, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), 2, []).splitlines() == ["News (0.500)", "War (0.400)"]


def test_hidden_files_are_no_posters(tmp_path: Path) -> None:
    """macOS leaves a ._NAME beside each file that it copies to another disk."""
    for name in ("a.jpg", "._a.jpg", ".trash/b.jpg", "c/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg((0, 0, 0)))
    assert [poster.name for poster in find_posters([str(tmp_path)])] == [str(tmp_path / name) for name in ("a.jpg", "c/d.jpg")]


def test_the_objects_of_posters_are_found_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    person = Detection("person", 0.9, 0, 0, 1, 1)
    posters = [Poster(name, 1, bytes) for name in ("p/a.jpg", "p/b.png", "p/c.jpg")]
    table = {"a": [person], "b.png": [person, person]}
    assert list(objects_of(table, posters, Path("d.csv"))) == [[person], [person, person], []]
    assert list(objects_of({f"tt{i}": [person] for i in range(7)}, posters, Path("d.csv"))) == [[], [], []]
    assert capsys.readouterr().err == (
        "warning: d.csv: has no objects on a or others given; its IDs are tt0, tt1, tt2, tt3, tt4 and 2 more\n"
    )


def test_one_poster_is_its_likeliest_genres_first(trained: Path) -> None:
    # A dark poster of a movie that is Horror and no Drama.
    verdict, *lines = stage("predict", "data/posters/m003.jpg", cwd=trained).stdout.splitlines()
    assert [line.split()[0] for line in lines[:1]] == ["Horror"]
    assert verdict == (", ".join(line.split()[0] for line in lines if line.endswith(" *")) or "no genre reaches its threshold")
    assert len(lines) == 3
    assert all(LINE.match(line) for line in lines), lines
    numbers = [float(line.split("(")[1].split(")")[0]) for line in lines]
    assert numbers == sorted(numbers, reverse=True)
    assert stage("predict", "data/posters/m003.jpg", "--top", "1", cwd=trained).stdout.splitlines() == [verdict, lines[0]]


def test_folders_are_taken_whole_and_in_batches(trained: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    for i in range(4):
        shutil.copytree(trained / "data" / "posters", many / str(i))
    done = stage("predict", many, "data/posters/m001.jpg", "--json", cwd=trained)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(objects) == 321
    assert all(list(one) == ["poster", "model", "verdict", "genres"] for one in objects)
    assert all(set(one["genres"]) == {"Comedy", "Drama", "Horror"} for one in objects)
    same = [one["genres"] for one in objects if Path(one["poster"]).name == "m001.jpg"]
    assert len(same) == 5
    # In another batch the last digits may differ.
    assert all(one == pytest.approx(same[0], abs=0.02) for one in same)


@pytest.mark.parametrize(
    ("option", "name"), [("--csv", "genres.csv"), pytest.param("--json", "genres.jsonl", marks=pytest.mark.long)]
)
def test_a_file_of_predictions_goes_on_where_it_stopped(trained: Path, tmp_path: Path, option: str, name: str) -> None:
    folder, file = tmp_path / "posters", tmp_path / name
    shutil.copytree(trained / "data" / "posters", folder, ignore=lambda _, names: [each for each in names if each > "m006.jpg"])
    (folder / "m003.jpg").write_text("text", encoding="utf-8")

    def command(fails: bool = False) -> str:
        return stage("predict", folder, option, file, cwd=trained, fails=fails).stderr

    assert f"{file}: 6 more posters" in command(fails=True).splitlines()
    whole = file.read_text(encoding="utf-8")
    posters = [str(folder / f"m00{i}.jpg") for i in (0, 1, 2, 4, 5, 6)]
    table = pd.read_csv(file) if option == "--csv" else pd.read_json(file, lines=True)
    assert table["poster"].tolist() == posters
    assert table["model"].nunique() == 1
    if option == "--csv":
        assert list(table.columns) == ["poster", "model", "verdict", "Comedy", "Drama", "Horror"]
    # Killed in the middle of the fourth: that one is done again, and those before it are not.
    lines = whole.splitlines(keepends=True)
    kept = 3 + (option == "--csv")
    file.write_text("".join(lines[:kept]) + lines[kept][:20], encoding="utf-8")
    shutil.copy(trained / "data" / "posters" / "m003.jpg", folder)
    said = command().splitlines()
    assert said[-2:] == [f"{file}: 3 of 7 posters are there already", f"{file}: 4 more posters"]
    after = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert after[:kept] == lines[:kept]
    assert len(after) == len(lines) + 1
    assert f"{file}: 7 of 7 posters are there already" in command().splitlines()

    other = whole.replace(table["model"][0], "0" * 16)
    file.write_text(other, encoding="utf-8")
    refused = f"error: {file}: has the predictions of another model; name another file, or remove it"
    assert command(fails=True).splitlines()[-1] == refused
    file.write_text("id,genre\n1,Drama\n", encoding="utf-8")
    assert command(fails=True).splitlines()[-1].startswith(f"error: {file}: ")
    assert file.read_text(encoding="utf-8") == "id,genre\n1,Drama\n"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_of_predictions_survives_what_others_do_to_it(tmp_path: Path, kind: str) -> None:
    file, names = tmp_path / f"genres.{kind}", ["a.jpg", "b\u2028c.jpg", 'd,"e".jpg', "caf\udce9.jpg"]
    probabilities = np.array([0.25, 0.5], np.float32)

    def add(name: str) -> set[str]:
        output = Output(file, "abc", ["Drama", "War"])
        done = output.done
        output.add(name, ["War"], probabilities)
        output.file.close()
        return done

    for i, name in enumerate(names):
        assert add(name) == {as_utf8(other) for other in names[:i]}
    assert as_utf8(names[3]) == "caf\\udce9.jpg"
    # Written again by a program that ends lines as Windows does: rows are neither cut nor put together.
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert add("z.jpg") == {as_utf8(name) for name in names}
    assert Output(file, "abc", ["Drama", "War"]).done == {as_utf8(name) for name in [*names, "z.jpg"]}
    # Half a line may end within a letter.
    whole = file.read_bytes()
    file.write_bytes(whole + b"caf\xc3")
    assert Output(file, "abc", ["Drama", "War"]).done == {as_utf8(name) for name in [*names, "z.jpg"]}
    assert file.read_bytes() == whole


def test_a_damaged_poster_in_an_archive_is_left_out() -> None:
    for error in (zipfile.BadZipFile("Bad CRC-32"), OSError("gone"), EOFError()):
        content = Mock(side_effect=error)
        assert read_poster(Poster("a.zip/a.jpg", 9, content)) == b""


def test_a_genre_may_be_named_as_a_column_is(tmp_path: Path) -> None:
    genres = ["model", "poster", "verdict"]
    for file in (tmp_path / "genres.csv", tmp_path / "genres.jsonl"):
        output = Output(file, "abc", genres)
        output.add("a.jpg", ["poster"], np.array([0.1, 0.9, 0.2], np.float32))
        output.file.close()
        assert Output(file, "abc", genres).done == {"a.jpg"}
        with pytest.raises(InputError, match=r": has the predictions of another model; name another file, or remove it$"):
            Output(file, "abd", genres)


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("content", [b'{"precious": "data"}', b"titel;\xe9\n", b"\xe9", b"poster,other", b"[1,\n2]"])
def test_another_programs_file_is_never_written_over(tmp_path: Path, kind: str, content: bytes) -> None:
    file = tmp_path / f"mine.{kind}"
    file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        Output(file, "abc", ["Drama", "War"])
    assert str(refused.value).partition(": ")[2] in (
        "is not a file of predictions; name another",
        "has the predictions of another model; name another file, or remove it",
    )
    assert file.read_bytes() == content


@pytest.mark.parametrize(("kind", "half"), [("csv", b"poster,mod"), ("jsonl", b'{"pos'), ("jsonl", b'{"poster": "a.jp')])
def test_half_a_first_line_is_written_again(tmp_path: Path, kind: str, half: bytes) -> None:
    file = tmp_path / f"genres.{kind}"
    file.write_bytes(half)
    assert Output(file, "abc", ["Drama", "War"]).done == set()


def test_no_poster_is_written_over(trained: Path, tmp_path: Path) -> None:
    poster = Path(shutil.copy(trained / "data" / "posters" / "m001.jpg", tmp_path))
    before = poster.read_bytes()
    for option, ending in (("--json", "jsonl"), ("--csv", "csv")):
        right = f"write to a file whose name ends in .{ending}, and name posters before {option}{HELP}"
        assert stage("predict", option, poster, cwd=trained, fails=True).stderr == f"error: {option} {poster}: {right}\n"
    assert poster.read_bytes() == before


def test_posters_of_a_bucket(trained: Path, tmp_path: Path, bucket: tuple[Any, subprocess.Popen[bytes]]) -> None:
    files, server = bucket
    files.put(f"{trained / 'data' / 'posters'}/", "posters/many/", recursive=True)
    local, remote = tmp_path / "local.csv", tmp_path / "remote.csv"
    stage("predict", "data/posters", "--csv", local, cwd=trained)
    done = stage("predict", "s3://posters/many", "--csv", remote, cwd=trained)
    assert done.stderr.splitlines()[-1] == f"{remote}: 80 more posters"
    assert remote.read_text(encoding="utf-8").replace("s3://posters/many/", "data/posters/") == local.read_text(encoding="utf-8")

    # It goes on where it stopped; one that is no poster, and one that is too large, are left out.
    files.pipe_file("posters/many/new.jpg", jpeg((9, 9, 9)))
    files.pipe_file("posters/many/bad.jpg", b"text")
    with files.open("posters/many/large.jpg", "wb") as file:
        for _ in range(101):
            file.write(bytes(1_000_000))
    said = stage("predict", "s3://posters/many", "--csv", remote, cwd=trained, fails=True).stderr.splitlines()
    left_out = ["s3://posters/many/large.jpg: left out: more than 100 MB", "s3://posters/many/bad.jpg: left out: not an image"]
    assert [line for line in said if "left out" in line] == left_out
    assert said[-2:] == [
        f"{remote}: 1 more poster",
        "error: 2 of 3 posters could not be read; JPEG, PNG, GIF, WebP, BMP and TIFF can be read",
    ]

    one = stage("predict", "s3://posters/many/m003.jpg", cwd=trained).stdout
    assert one == stage("predict", "data/posters/m003.jpg", cwd=trained).stdout
    nothing = (
        "no posters there; files that end in .jpg, .jpeg, .jpe, .jfif, .png, .gif, .webp, .bmp, .dib, .tif, .tiff are looked for"
    )
    for wrong, reason in (
        ("s3://posters/few", nothing),
        ("s3://posters/many/m999.jpg", "nothing is there"),
        ("gs://posters/many", "needs more packages: pip install dvc-gs"),
        ("ftps://posters/many", "cannot be read (Protocol not known: ftps)"),
        ("https://example.com/a.jpg", "addresses of the web are not opened; download the poster and give its file"),
    ):
        assert stage("predict", wrong, cwd=trained, fails=True).stderr.splitlines()[-1] == f"error: {wrong}: {reason}"
    server.kill()
    said = stage("predict", "s3://posters/many", cwd=trained, fails=True).stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: s3://posters/many: cannot be read (")


def test_a_random_test_poster_comes_with_its_true_genres(trained: Path) -> None:
    first, *lines = stage("predict", "--random", cwd=trained).stdout.splitlines()
    movie, genres = first.split("; true genres: ")
    table = (trained / "data" / "movies.csv").read_text(encoding="utf-8")
    assert re.search(rf"^{movie},.*,test,", table, re.MULTILINE)
    metadata = pd.read_csv(trained / "data" / "posters" / "movies.csv", index_col="Id")
    assert sorted(genres.split(", ")) == sorted(metadata.loc[movie, "Genre"].split(", "))
    assert len(lines) == 4
    assert len({stage("predict", "--random", cwd=trained).stdout for _ in range(4)}) > 1


def test_unreadable_posters_among_others(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "data" / "posters" / "m001.jpg", tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_text("text", encoding="utf-8")
    done = stage("predict", tmp_path, "--json", cwd=trained, fails=True)
    assert len(done.stdout.splitlines()) == 1
    assert f"{tmp_path}/bad.jpg: left out: not an image" in done.stderr
    assert "error: 1 of 2 posters could not be read" in done.stderr


class Attack:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("pwned"),)


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Attack()))


def write_torch_pickle(path: Path) -> None:
    torch.save({"format": FORMAT, "weights": Attack()}, path)


def write_other(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)


def write_damaged(path: Path) -> None:
    torch.save({"format": FORMAT, "architecture": "residual", "genres": ["a"]}, path)
    seal(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_pickle, "not a model that this pipeline wrote"),
        (write_torch_pickle, "not a model that this pipeline wrote"),
        (write_other, "not a model that this pipeline wrote"),
        (lambda path: path.write_bytes(b"text"), "not a model that this pipeline wrote"),
        (lambda path: path.write_bytes(b""), "not a model that this pipeline wrote"),
        (write_damaged, "damaged, or from another version"),
        (lambda path: None, "no such model file"),
    ],
)
def test_model_files_that_are_not_ours_are_refused(trained: Path, tmp_path: Path, write, message: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "model.pt")
    arguments = ("data/posters/m001.jpg", "--model", tmp_path / "model.pt")
    assert message in stage("predict", *arguments, cwd=trained, fails=True).stderr
    assert not (trained / "pwned").exists()


def test_what_is_not_there_is_named(trained: Path, tmp_path: Path) -> None:
    assert "missing.jpg: no such file or folder" in stage("predict", "missing.jpg", cwd=trained, fails=True).stderr
    assert "no posters in this folder" in stage("predict", tmp_path, cwd=trained, fails=True).stderr
    for arguments, wrong in (
        ([], "name posters or folders, or give --random"),
        (["m.jpg", "--top", "x"], "argument --top: invalid int value: 'x'"),
        (["m.jpg", "--topp"], "unrecognized arguments: --topp"),
    ):
        assert stage("predict", *arguments, cwd=trained, fails=True).stderr == f"error: {wrong}{HELP}\n"


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("tutorial", 160), pytest.param("alexnet", 96, marks=pytest.mark.long), ("residual", 96), ("efficientnet_lite0", 96)],
)
def test_what_speaks_for_a_genre_is_where_it_is(architecture: str, size: int) -> None:
    torch.manual_seed(0)
    architecture_of = find_architecture(architecture)
    network = architecture_of.build(3, size, size)
    if architecture_of.load_pretrained is not None:
        architecture_of.load_pretrained(network)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.3  # there is little time to learn the statistics
    model = Model(architecture, ["A", "B", "C"], size, size, [0.0] * 3, [255.0] * 3, [network], [0.1] * 3)
    # Trained for a moment to tell whether there is something on the left.
    posters = np.random.default_rng(0).integers(0, 30, (16, size, size, 3), dtype=np.uint8)
    posters[:8, size // 3 : size * 2 // 3, : size // 3] = 250
    pixels, labels = model.normalise(torch.from_numpy(posters)), torch.zeros(16, 3)
    labels[:8] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3 if architecture != "alexnet" else 1e-4)
    network.train()
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(pixels), labels).backward()
        optimizer.step()
    maps = explain(model, posters[0], [0, 2], torch.device("cpu"))
    assert maps.shape == (2, size, size)
    assert maps.min() >= 0
    # All maps have one scale: of twice the weights, the second map is twice as strong, and the first as it was.
    with torch.no_grad():
        network.head[-1].weight[2] *= 2  # type: ignore[index]
    np.testing.assert_allclose(explain(model, posters[0], [0, 2], torch.device("cpu")), maps * [[[1]], [[2]]], rtol=1e-4, atol=1e-5)
    left, right = maps[0][:, : size // 2].mean(), maps[0][:, size // 2 :].mean()
    assert left > right


def test_an_explanation_adds_up_to_the_logit() -> None:
    torch.manual_seed(0)
    architecture_of = find_architecture("efficientnet_lite0")
    network = architecture_of.build(2, 64, 64).eval()
    if architecture_of.load_pretrained is not None:
        architecture_of.load_pretrained(network)
    pixels = torch.randn(1, 3, 64, 64)
    first, by_map = attributions(network, pixels, torch.tensor([[1.0, -2.0], [0.0, 1.0]]))
    assert len(by_map) == 17
    logits = (network(pixels)[0] - network.get_parameter("head.1.bias")).tolist()
    assert sum(float(one.sum()) for one in by_map) == pytest.approx(logits[1], abs=1e-4)
    assert sum(float(one.sum()) for one in first) == pytest.approx(logits[0] - 2 * logits[1], abs=1e-4)


def test_an_explanation_is_drawn(trained: Path, tmp_path: Path) -> None:
    posters = sorted((trained / "data" / "posters").glob("*.jpg"))
    picture = tmp_path / "out.png"
    done = stage("predict", posters[0], "--explain", picture, cwd=trained)
    assert done.stdout == stage("predict", posters[0], cwd=trained).stdout
    width, height = Image.open(picture).size
    assert width > 2 * height
    refused = stage("predict", *posters[:2], "--explain", picture, cwd=trained, fails=True).stderr
    assert refused == "error: --explain draws one poster, not 2; name one\n"
