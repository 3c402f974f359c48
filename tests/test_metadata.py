"""Metadata in all the layouts in which people meet it."""

import zipfile
from pathlib import Path

import pytest

from poster_genres.dataset import list_files
from poster_genres.errors import InputError
from poster_genres.metadata import Metadata, read_metadata

CSV = "Id,Genre\nm1,\"['Comedy', 'Drama']\"\nm2,\"Horror, N/A\"\nm3,N/A\nm4,[]\n"
GENRES = {"m1": ("Comedy", "Drama"), "m2": ("Horror",), "m3": (), "m4": ()}

GROUNDTRUTH = """{
  "_id" : ObjectId("56fb860e71a0651b0c306f56"),
  "imdbID" : "m2",  "Title" : "A  \\"Quoted\\" {Title} ObjectId(\\"x\\")",
  "Genre" : "Crime, Comedy", "Box_office" : null
}
{ "_id" : ObjectId("56fb860e71a0651b0c306f57"), "imdbID" : "m9", "Title" : "Amélie", "Genre" : "N/A" }
"""


def read(folder: Path, choice: str = "auto") -> Metadata:
    return read_metadata(folder, list_files(folder), choice)


@pytest.mark.parametrize(
    "data",
    [
        CSV.encode(),
        CSV.encode("utf-8-sig"),
        CSV.encode("utf-16"),
        CSV.encode("utf-16-le"),
        CSV.encode("utf-16-be"),
        CSV.replace("\n", "\r\n").encode(),
        CSV.rstrip("\n").encode(),
    ],
    ids=["utf-8", "byte-order mark", "utf-16", "utf-16-le", "utf-16-be", "windows line ends", "no last line end"],
)
def test_csv_in_any_encoding(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "movies.csv").write_bytes(data)
    metadata = read(tmp_path)
    assert dict(zip(metadata.movies["id"], metadata.movies["genres"], strict=True)) == GENRES
    assert (metadata.source, metadata.rows) == ("csv", 4)


def test_one_hot_columns_must_agree_with_the_genres(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    # A column that is no genre, `Title`, may hold anything.
    path.write_text("Id,Genre,Comedy,Drama,Title\nm1,\"['Comedy']\",1,0,Up\nm2,\"['Drama']\",0,1,Down\n", encoding="utf-8")
    assert read(tmp_path).movies["genres"].tolist() == [("Comedy",), ("Drama",)]
    path.write_text("Id,Genre,Comedy\nm1,\"['Comedy']\",1\nm2,\"['Comedy']\",2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 3: column 'Comedy' holds '2'; 0 or 1 is right"):
        read(tmp_path)
    path.write_text("Id,Genre,Comedy,Drama\nm1,\"['Comedy']\",1,0\nm2,\"['Drama']\",1,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 3: .* column 'Comedy' holds 1"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16"])
def test_groundtruth(tmp_path: Path, encoding: str) -> None:
    text = GROUNDTRUTH.replace("é", "e") if encoding == "ascii" else GROUNDTRUTH
    (tmp_path / "1999.txt").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    (tmp_path / "README.txt").write_text("Not metadata.", encoding="utf-8")
    movies = read(tmp_path).movies
    assert movies["id"].tolist() == ["m2", "m9"]
    assert movies["genres"].tolist() == [("Crime", "Comedy"), ()]
    assert movies["title"].tolist() == ['A "Quoted" {Title} ObjectId("x")', "Amelie" if encoding == "ascii" else "Amélie"]
    assert movies["year"].tolist() == ["1999", "1999"]


def test_groundtruth_in_a_zip_adds_title_and_year_to_a_csv(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text(CSV, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "metadata.zip", "w") as archive:
        archive.writestr("groundtruth/1999.txt", GROUNDTRUTH.encode("utf-16"))
        archive.writestr("__MACOSX/groundtruth/._1999.txt", b"{ resource fork")
    both = read(tmp_path)
    assert both.source == "csv and groundtruth"
    assert dict(zip(both.movies["id"], both.movies["genres"], strict=True)) == GENRES
    assert both.movies.set_index("id").loc["m2", ["title", "year"]].tolist() == ['A "Quoted" {Title} ObjectId("x")', "1999"]
    assert both.movies.set_index("id").loc["m1", ["title", "year"]].tolist() == ["", ""]
    assert read(tmp_path, "csv").movies["title"].eq("").all()
    assert read(tmp_path, "groundtruth").movies["id"].tolist() == ["m2", "m9"]


def test_repeats_are_dropped_and_conflicts_counted(tmp_path: Path) -> None:
    rows = ["m1,Comedy", "m2,Drama", 'm1,"Comedy"', "m2,Horror", 'm3,"War, Drama"', 'm3,"Drama, War"']
    (tmp_path / "movies.csv").write_text("\n".join(["Id,Genre", *rows]), encoding="utf-8")
    metadata = read(tmp_path)
    assert metadata.movies["genres"].tolist() == [("Comedy",), ("Drama",), ("War", "Drama")]
    assert (metadata.rows, metadata.repeats, metadata.conflicts) == (6, 2, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "imdb,Genre\nm1,Drama\n", "no column 'Id'; its columns are 'imdb', 'Genre'"),
        ("a.csv", "Id,Genres\nm1,Drama\n", "no column 'Genre'"),
        ("a.csv", "", "not readable as CSV"),
        ("a.csv", "Id,Genre\nm1,['Drama'\n", r"row 2: Genre is \"\['Drama'\""),
        ("a.csv", "Id,Genre\nm1,[__import__('os').getpid()]\n", "row 2: Genre is"),
        ("a.csv", "Id,Genre\n../m1,Drama\n", r"row 2: '../m1' is no ID"),
        ("a.csv", "Id,Genre\nm0,Drama\n/etc/passwd,Drama\n", r"row 3: '/etc/passwd' is no ID"),
        ("a.csv", "Id,Genre\nm\0,Drama\n", r"row 2: 'm\\x00' is no ID"),
        ("a.csv", "Id,Genre\n,Drama\n", r"row 2: '' is no ID"),
        ("1999.txt", '{"imdbID": "m1"}\n{"imdbID": ', r"1999.txt, record 2: not a JSON object"),
        ("1999.txt", '{"Title": "x"}', 'record 1: no "imdbID"'),
        ("1999.txt", '{"imdbID": "a/b"}', "record 1: 'a/b' is no ID"),
        ("README.md", "hello", "no metadata found"),
    ],
)
def test_wrong_metadata_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_two_tables_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "detections.csv"):
        (tmp_path / name).write_text(CSV, encoding="utf-8")
    with pytest.raises(InputError, match=r"2 CSV files \(a.csv, b.csv\)"):
        read(tmp_path)
