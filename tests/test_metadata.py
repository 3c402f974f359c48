"""Metadata in all the layouts in which people meet it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from poster_genres.dataset import POSTER_SUFFIXES, list_files
from poster_genres.errors import InputError
from poster_genres.matching import Posters
from poster_genres.metadata import Metadata, read_metadata, split_of_folders, split_of_table

CSV = "Id,Genre\nm1,\"['Comedy', 'Drama']\"\nm2,\"Horror, N/A\"\nm3,N/A\nm4,[]\n"
GENRES = {"m1": ("Comedy", "Drama"), "m2": ("Horror",), "m3": (), "m4": ()}

GROUNDTRUTH = """{
  "_id" : ObjectId("56fb860e71a0651b0c306f56"),
  "imdbID" : "m2",  "Title" : "A  \\"Quoted\\" {Title} ObjectId(\\"x\\")",
  "Genre" : "Crime, Comedy", "Box_office" : null
}
{ "_id" : ObjectId("56fb860e71a0651b0c306f57"), "imdbID" : "m9", "Title" : "Amélie", "Genre" : "N/A" }
"""


def read(folder: Path, choice: str | list[str] = "auto", **options: Any) -> Metadata:
    files = list_files(folder)
    posters = Posters(str(folder), [file for file in files if file.suffix in POSTER_SUFFIXES])
    return read_metadata(folder, files, posters, choice, **options)


def genres(metadata: Metadata) -> dict[str, tuple[str, ...]]:
    return dict(zip(metadata.movies["id"], metadata.movies["genres"], strict=True))


def add_posters(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


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
    assert (metadata.source, len(metadata.movies)) == ("csv", 4)


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


def test_a_named_column_must_be_somewhere_beside_groundtruth_too(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Id,Genre\nm1,Drama\n", encoding="utf-8")
    (tmp_path / "1999.txt").write_text('{"imdbID": "m1", "Genre": "Comedy"}', encoding="utf-8")
    assert genres(read(tmp_path)) == {"m1": ("Drama",)}
    for name in ("id_column", "label_columns"):
        with pytest.raises(
            InputError, match=rf"has no column 'Bild', as `{name}` in params.yaml says; its columns are 'Id', 'Genre'$"
        ):
            read(tmp_path, **{name: "Bild"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "movie,Genre\nm1,Drama\n",
            "no column of IDs found, which name the images; its columns are 'movie', 'Genre'; name one: -S id_column=NAME$",
        ),
        (
            "a.csv",
            "Id,Plot\nm1,Drama\n",
            "no column of labels found, nor columns of zeros and ones; its columns are 'Id', 'Plot'; name one: "
            "-S label_columns=NAME$",
        ),
        ("a.csv", "", "no metadata found; a table"),
        ("a.csv", "Id,Genre\n", r"; files there: a.csv; not read: a.csv \(no row below its header\)$"),
        ("a.csv", "Id,Genre\nm1,['Drama'\n", r"row 2: \"\['Drama'\" is not a list of names"),
        ("a.csv", "Id,Genre\nm1,[__import__('os').getpid()]\n", "row 2: .* is not a list of names"),
        ("a.csv", "Id,Genre\n../m1,Drama\n", r"row 2: '../m1' is no ID"),
        ("a.csv", "Id,Genre\nm\0,Drama\n", r"row 2: 'm\\x00' is no ID"),
        (
            "a.csv",
            "Id,Genre\nm0,Drama\nm1,Drama,Comedy\n",
            "row 3: 3 cells, but the header has 2: 'm1,Drama,Comedy'; put cells that contain",
        ),
        (
            "a.csv",
            "Id,labels,tags\nm1,a,b\n",
            "several columns could hold the labels: 'labels', 'tags'; set `label_columns`",
        ),
        ("a.json", '{"Id": "m1"', "a.json: not readable as JSON"),
        ("a.json", '{"m1.jpg": ["War"], "m1.jpg": ["Drama"]}', "a.json: 'm1.jpg' is there twice, with different values; keep one$"),
        (
            "a.csv",
            "# mine\n# of 2024\nId,Genre\nm1,Drama\n",
            "its first row has one cell, '# mine', and row 3 has 2; remove what stands above the header$",
        ),
        ("a.xlsx", "no workbook", "a.xlsx: not readable as xlsx"),
        ("a.parquet", "no parquet", "a.parquet: not readable as parquet"),
        ("1999.txt", '{"imdbID": "m1"}\n{"imdbID": ', r"1999.txt, record 2: not a JSON object"),
        ("1999.txt", '{"Title": "x"}', 'record 1: no "imdbID"'),
        (
            "1999.txt",
            '{"imdbID": "m1", "Genre": "War", "Genre": "Drama"}',
            "1999.txt: 'Genre' is there twice, with different values",
        ),
        ("README.md", "hello", "no metadata found"),
    ],
)
def test_wrong_metadata_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_tables_of_different_forms_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Id,Genre\nm1,Drama\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("movieId,tags\nm1,funny\n", encoding="utf-8")
    (tmp_path / "detections.csv").write_text("Id,Genre\nm1,Drama\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: tables of different forms could be the metadata: a.csv (id, genre); b.csv (movieid, tags); "
        "set `metadata` in params.yaml to one of them"
    )
    assert genres(read(tmp_path, "b.csv")) == {"m1": ("funny",)}
    assert genres(read(tmp_path, ["a.csv"])) == {"m1": ("Drama",)}
    with pytest.raises(InputError, match=r"params.yaml: metadata: .* has no table 'c.csv'; it has a.csv, b.csv"):
        read(tmp_path, "c.csv")


def test_tables_of_one_form_are_read_together_and_others_not(tmp_path: Path) -> None:
    for name, row in (("test.csv", "m3,Horror"), ("train.csv", 'm1,"Comedy, Drama"'), ("val.csv", "m2,Drama")):
        (tmp_path / name).write_text(f"id,genres\n{row}\n", encoding="utf-8")
    (tmp_path / "ratings.csv").write_text("userId,rating\n1,5\n", encoding="utf-8")
    (tmp_path / "README.txt").write_bytes("Données, libres\n".encode("latin-1"))
    metadata = read(tmp_path)
    assert list(genres(metadata).items()) == [("m1", ("Comedy", "Drama")), ("m2", ("Drama",)), ("m3", ("Horror",))]
    assert metadata.movies["table"].map(split_of_table).tolist() == ["train", "validation", "test"]
    assert any("ratings.csv: no column of" in line for line in metadata.understood)


# The headers and first rows of tables that people have, with made-up titles.
def test_kaggles_movie_genre(tmp_path: Path) -> None:
    text = (
        "imdbId,Imdb Link,Title,IMDB Score,Genre,Poster\n"
        "114709,http://www.imdb.com/title/tt114709,Le hôtel (1995),8.3,Animation|Adventure|Comedy,https://images.example/1.jpg\n"
        "113497,http://www.imdb.com/title/tt113497,Der Fuß (1995),6.9,Action|Adventure,https://images.example/2.jpg\n"
        "113228,http://www.imdb.com/title/tt113228,Señor (1995),6.6,,https://images.example/3.jpg\n"
    )
    (tmp_path / "MovieGenre.csv").write_bytes(text.encode("iso-8859-1"))
    add_posters(tmp_path, "posters/114709.jpg", "posters/113497.jpg")
    metadata = read(tmp_path)
    assert list(genres(metadata).values()) == [("Animation", "Adventure", "Comedy"), ("Action", "Adventure"), ()]
    assert metadata.movies["title"].tolist() == ["Le hôtel (1995)", "Der Fuß (1995)", "Señor (1995)"]
    assert metadata.movies["year"].tolist() == ["1995"] * 3
    assert metadata.movies["id"].tolist() == ["114709", "113497", "113228"]


def test_tmdb_5000(tmp_path: Path) -> None:
    names = [[{"id": 28, "name": "Action"}, {"id": 878, "name": "Science Fiction"}], [{"id": 12, "name": "Adventure"}], []]
    frame = pd.DataFrame(
        {
            "budget": [237000000, 300000000, 0],
            "genres": [json.dumps(row) for row in names],
            "homepage": ["http://example.com", "", ""],
            "id": [19995, 285, 7],
            "keywords": [json.dumps([{"id": 1463, "name": "culture clash"}])] * 3,
            "original_language": ["en"] * 3,
            "release_date": ["2009-12-10", "2007-05-19", ""],
            "title": ['Blue, and "tall"', "The sea\nof pirates", "None"],
        }
    )
    frame.to_csv(tmp_path / "tmdb_5000_movies.csv", index=False)
    add_posters(tmp_path, "19995.jpg", "285.jpg", "7.jpg")
    metadata = read(tmp_path)
    assert genres(metadata) == {"19995": ("Action", "Science Fiction"), "285": ("Adventure",), "7": ()}
    assert metadata.movies["year"].tolist() == ["2009", "2007", ""]
    assert metadata.movies["title"].tolist() == ['Blue, and "tall"', "The sea of pirates", "None"]


def test_imdbs_title_basics(tmp_path: Path) -> None:
    text = (
        "tconst\ttitleType\tprimaryTitle\toriginalTitle\tisAdult\tstartYear\tendYear\truntimeMinutes\tgenres\n"
        "tt0000001\tshort\tA dance\tA dance\t0\t1894\t\\N\t1\tDocumentary,Short\n"
        'tt0000002\tshort\t"Quoted\t"Quoted\t0\t1892\t\\N\t5\tAnimation,Short\n'
        "tt0000003\tshort\tThird\tThird\t0\t\\N\t\\N\t5\t\\N\n"
    )
    (tmp_path / "title.basics.tsv").write_text(text, encoding="utf-8")
    metadata = read(tmp_path)
    assert genres(metadata) == {"tt0000001": ("Documentary", "Short"), "tt0000002": ("Animation", "Short"), "tt0000003": ()}
    assert metadata.movies["title"].tolist() == ["A dance", '"Quoted', "Third"]
    assert metadata.movies["year"].tolist() == ["1894", "1892", ""]


def test_a_json_a_movie_as_mm_imdb_has_them(tmp_path: Path) -> None:
    for name, names in {"0012349": ["Comedy", "Drama"], "0015648": ["War"]}.items():
        record = {"genres": names, "plot": ["It goes."], "title": f"Film {name}", "year": 1925}
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
        add_posters(tmp_path, f"{name}.jpeg")
    metadata = read(tmp_path)
    assert genres(metadata) == {"0012349": ("Comedy", "Drama"), "0015648": ("War",)}
    assert metadata.movies["year"].tolist() == ["1925", "1925"]


def test_chest_x_rays_are_no_movies_and_are_read(tmp_path: Path) -> None:
    header = "Image Index,Finding Labels,Follow-up #,Patient Age"
    text = f"{header}\n00000001_000.png,Cardiomegaly|Effusion,0,57\n00000002_000.png,No Finding,0,80\n"
    (tmp_path / "Data_Entry_2017.csv").write_text(text, encoding="utf-8")
    add_posters(tmp_path, "images/00000001_000.png", "images/00000002_000.png")
    assert genres(read(tmp_path)) == {"00000001_000.png": ("Cardiomegaly", "Effusion"), "00000002_000.png": ("No Finding",)}


ROWS = [("m1", ["Comedy", "Drama"]), ("m2", ["Drama"]), ("m3", [])]


KINDS = ("json", "json by id", "json lines", "pandas columns", "parquet", "xlsx", "tsv", "semicolon", "sep=", "excel's utf-16")


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_any_kind_of_file(tmp_path: Path, kind: str) -> None:
    records = [{"filename": name, "labels": labels} for name, labels in ROWS]
    text = [(name, ", ".join(labels) or "None") for name, labels in ROWS]
    if kind == "json":
        (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    elif kind == "json by id":
        (tmp_path / "a.json").write_text(json.dumps({name: {"labels": labels} for name, labels in ROWS}), encoding="utf-8")
    elif kind == "json lines":
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    elif kind == "pandas columns":
        pd.DataFrame(records).to_json(tmp_path / "a.json")
    elif kind == "parquet":
        pd.DataFrame(records).to_parquet(tmp_path / "a.parquet")
    elif kind == "xlsx":  # with an empty row, and numbers
        pd.DataFrame(
            [(*text[0], 1), (None, None, None), (*text[1], 2.5), (*text[2], None)], columns=["filename", "labels", "n"]
        ).to_excel(tmp_path / "a.xlsx", index=False)
    else:
        delimiter = {"tsv": "\t", "semicolon": ";", "sep=": ";", "excel's utf-16": "\t"}[kind]
        lines = ["filename" + delimiter + "labels", *(delimiter.join(row) for row in text)]
        lines = ["sep=;", *lines] if kind == "sep=" else lines
        encoding = "utf-16" if "utf-16" in kind else "utf-8"
        (tmp_path / ("a.tsv" if kind == "tsv" else "a.csv")).write_text("\r\n".join(lines), encoding=encoding)
    assert genres(read(tmp_path)) == {name: tuple(labels) for name, labels in ROWS}


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1", "-1"), ("1.0", "0.0"), ("True", "False"), ("true", ""), ("yes", "no")])
def test_one_hot_columns_alone(tmp_path: Path, yes: str, no: str) -> None:
    text = f"filename, Action, Sci-Fi & Fantasy, title\nm1.jpg, {yes}, {no}, Up\nm2.jpg, {yes}, {yes}, Down\n"
    (tmp_path / "_classes.csv").write_text(text, encoding="utf-8")
    assert genres(read(tmp_path)) == {"m1.jpg": ("Action",), "m2.jpg": ("Action", "Sci-Fi & Fantasy")}


def test_columns_and_separator_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,code,what,more\nm1,x,a-b,c\nm2,y,a,\n", encoding="utf-8")
    named = read(tmp_path, id_column="code", label_columns=["what", "more"], separator="-")
    assert genres(named) == {"x": ("a", "b", "c"), "y": ("a",)}
    with pytest.raises(InputError, match=r"has no column 'Key', as `id_column` in params.yaml says; its columns are 'key', 'code'"):
        read(tmp_path, id_column="Key")


@pytest.mark.parametrize(
    ("column", "cells", "splits"),
    [
        ("split", "train,VAL,test,", ["train", "validation", "test", ""]),
        ("is_test", "False,True,False,True", ["train", "test", "train", "test"]),
        ("is_valid", "0,1,1,", ["train", "validation", "validation", ""]),
        ("Train", "yes,no,no,yes", ["train", "test", "test", "train"]),
        ("is_test", "x,,x,", ["test", "train", "test", "train"]),
    ],
)
def test_columns_of_splits(tmp_path: Path, column: str, cells: str, splits: list[str]) -> None:
    rows = [f"m{i},Drama,{cell}\n" for i, cell in enumerate(cells.split(","))]
    (tmp_path / "a.csv").write_text(f"Id,Genre,{column}\n" + "".join(rows), encoding="utf-8")
    assert read(tmp_path, split_by=column).movies["given_split"].tolist() == splits
    found = {"train", "test"} <= set(splits)
    assert read(tmp_path).split_column == (column if found else None)


def test_a_train_among_vehicles_is_a_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Id,label_bus,label_train\nm1,1,0\nm2,0,1\nm3,1,1\n", encoding="utf-8")
    assert genres(read(tmp_path)) == {"m1": ("bus",), "m2": ("train",), "m3": ("bus", "train")}


def test_the_column_of_splits_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Id,Genre,Part\nx,Drama,train\ny,War,holdout\n", encoding="utf-8")
    wrong = "^a.csv, row 3: 'holdout' in column 'Part', which `split_by` names, is none of train, val and test$"
    with pytest.raises(InputError, match=wrong):
        read(tmp_path, split_by="Part")
    with pytest.raises(
        InputError, match=r"a.csv: no column of labels found beside 'Genre' \(`split_by`\), nor columns of zeros and"
    ):
        read(tmp_path, split_by="Genre")
    with pytest.raises(InputError, match=r"a.csv: has no column 'Teil', as `split_by` in params.yaml says; its columns are 'Id', "):
        read(tmp_path, split_by="Teil")


def test_the_column_of_ids_is_that_which_names_posters(tmp_path: Path) -> None:
    text = "movieId,title,genres,imdbId\n1,Toys (1995),Adventure|Children's,114709\n2,Games (1995),(no genres listed),113497\n"
    (tmp_path / "movies.csv").write_text(text, encoding="utf-8")
    add_posters(tmp_path, "tt0114709.jpg", "tt0113497.jpg")
    assert genres(read(tmp_path)) == {"114709": ("Adventure", "Children's"), "113497": ()}


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp1252", "L'hôtel à côté"),
        ("cp1251", "Броненосец и крепость"),
        ("shift_jis", "七人の侍と東京物語"),
    ],
)
def test_encodings_of_spreadsheets(tmp_path: Path, encoding: str, title: str) -> None:
    rows = [f"m{i},{title} {i},Drama" for i in range(30)]
    (tmp_path / "a.csv").write_bytes("\n".join(["Id,Title,Genre", *rows]).encode(encoding))
    assert read(tmp_path).movies["title"].tolist() == [f"{title} {i}" for i in range(30)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,label,confidence\nm1.jpg,Drama,0.1\nm1.jpg,War,0.9\nm2.jpg,War,1\n",
            "a.csv: column 'confidence' has values from 0.1 for the rows' labels; keep the rows whose label is right",
        ),
        (
            "image,Drama,War,Comedy\n" + "".join(f"m{i}.jpg,0,1,1\n" for i in range(20)) + "m1.jpg,1,1,11\n",
            "a.csv, row 22: column 'Comedy' holds '11', where 0 or 1 is right; mend it, or set `label_columns`",
        ),
        (
            ",Genres,,\nimage,Drama,War,Comedy\nm1.jpg,0,1,0\n",
            "column 3 has cells but no name in the header, ',Genres,,'; name it, or remove what stands above or below the header",
        ),
        (
            'image,labels\nm1,"[0, 1]"\nm2,"[1, 0]"\n',
            "a.csv, row 2: '[0, 1]' has no names; write them, or a column of 0 and 1 per name",
        ),
        (
            'image,labels\nm1,"0,1"\nm2,"1,0"\n',
            "a.csv, row 2: '0,1' has no names; write them, or a column of 0 and 1 per name",
        ),
        (
            "image,label,confidence\nm1.jpg,Drama,1e-05\nm1.jpg,War,0.9\nm2.jpg,War,1\n",
            "a.csv: column 'confidence' has values from 1e-05 for the rows' labels; keep the rows whose label is right",
        ),
        (
            "image,label,confidence\nm1.jpg,Drama,3%\nm1.jpg,War,97%\nm2.jpg,War,90%\n",
            "a.csv: column 'confidence' has values from 3 for the rows' labels; keep the rows whose label is right",
        ),
        (
            """image,labels\nm1,"[{""label"": ""War"", ""score"": 0.1}]"\n""",
            "is not a list of names",
        ),
    ],
)
def test_what_could_be_misread_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert message in str(error.value)


def test_a_score_of_the_movie_is_none_of_its_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,label,score\nm1,Drama,7.5\nm1,War,7.5\nm2,War,4\n", encoding="utf-8")
    assert read(tmp_path).movies["genres"].tolist() == [("Drama",), ("War",), ("War",)]


def test_a_typo_in_columns_that_are_named(tmp_path: Path) -> None:
    rows = "".join(f"m{i},yes,no\n" for i in range(20))
    (tmp_path / "a.csv").write_text(f"id,Drama,War\n{rows}m1,yess,no\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read(tmp_path, label_columns=["Drama", "War"])
    assert str(error.value) == (
        "a.csv, row 22: column 'Drama' holds 'yess', where 0 or 1 is right; mend it, or set `label_columns`"
    )


def test_columns_that_are_no_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,cat,dog,bird,year\nm1,3,1,0,1999\nm2,0,0,1,2000\n", encoding="utf-8")
    metadata = read(tmp_path)
    assert metadata.movies["genres"].tolist() == [("dog",), ("bird",)]
    assert (
        metadata.understood[1] == "columns: ID 'id'; labels 2 columns of zeros and ones: dog, bird; not labels: 'cat'; year 'year'"
    )


def test_labels_of_all_tables_count(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,C,C++,C#\nm1,1,0,0\nm2,0,1,1\n", encoding="utf-8")
    (tmp_path / "val.csv").write_text("ID,C++,C#,Rust\nm3,1,0,1\n", encoding="utf-8")
    assert genres(read(tmp_path)) == {"m1": ("C",), "m2": ("C++", "C#"), "m3": ("C++", "Rust")}


def test_texts_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("Movies, and what they are\nmore, of them, than two\n", encoding="utf-8")
    (tmp_path / "config.json").write_text("{broken", encoding="utf-8")
    (tmp_path / "sample_labels.csv").write_text("id,genres\nm1,Drama\n", encoding="utf-8")
    assert genres(read(tmp_path)) == {"m1": ("Drama",)}
    (tmp_path / "classes.csv").write_text("number,class\n1,Drama\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/classes.csv: no column of IDs found, which name the images; its columns are 'number', 'class'; "
        "name one: -S id_column=NAME; not read: sample_labels.csv (by its name; `metadata` can name it)"
    )


def test_a_table_is_named_by_its_path_where_two_have_its_name(tmp_path: Path) -> None:
    for folder, genre in (("", "Drama"), ("v1", "War"), ("v2", "Crime")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "labels.csv").write_text(f"id,genres\nm1,{genre}\n", encoding="utf-8")
    assert genres(read(tmp_path, "labels.csv")) == {"m1": ("Drama",)}
    assert genres(read(tmp_path, "v1/labels.csv")) == {"m1": ("War",)}
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(InputError) as error:
        read(tmp_path, "labels.csv")
    assert str(error.value) == (
        f"params.yaml: metadata: {tmp_path} has 2 tables 'labels.csv', v1/labels.csv, v2/labels.csv; write a path"
    )


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (("train", "bus"), "train"),
        (("test", "train"), "test"),
        (("training_data", "test"), "test"),
        (("posters", "val.zip", "train"), "validation"),
        (("images_train", "bus"), "train"),
        (("posters",), ""),
    ],
)
def test_the_split_that_folders_say(folders: tuple[str, ...], split: str) -> None:
    assert split_of_folders(folders) == split


def test_names_of_files_go_before_numbers_of_rows(tmp_path: Path) -> None:
    rows = [f"{40 - i},{i}.jpg,{'War' if i % 2 else 'Drama'}" for i in range(1, 40)]
    (tmp_path / "a.csv").write_text("\n".join(["id,photo,genres", *rows]), encoding="utf-8")
    add_posters(tmp_path, *(f"images/{i}.jpg" for i in range(1, 40)))
    assert genres(read(tmp_path)) == {f"{i}.jpg": ("War" if i % 2 else "Drama",) for i in range(1, 40)}


def test_predictions_are_no_truth_and_it_is_said(tmp_path: Path) -> None:
    for name, label in (("train.csv", "War"), ("sample_submission.csv", "Drama"), ("labels_old.csv", "Comedy")):
        (tmp_path / name).write_text(f"image,labels\nm1.jpg,{label}\n", encoding="utf-8")
    for choice in ("auto", "csv"):
        metadata = read(tmp_path, choice)
        assert genres(metadata) == {"m1.jpg": ("War",)}
        assert metadata.understood[-1] == (
            "not read: labels_old.csv (by its name; `metadata` can name it); "
            "sample_submission.csv (by its name; `metadata` can name it)"
        )
    assert genres(read(tmp_path, "labels_old.csv")) == {"m1.jpg": ("Comedy",)}


def test_a_fault_of_one_table_is_not_passed_over_for_another(tmp_path: Path) -> None:
    good = "image,Drama,War\n" + "".join(f"m{i}.jpg,0,1\n" for i in range(20))
    (tmp_path / "test.csv").write_text(good, encoding="utf-8")
    (tmp_path / "train.csv").write_text("image,Drama,War,Crime\n" + "n.jpg,0,1,1\n" * 20 + "o.jpg,1,0,11\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train.csv, row 22: column 'Crime' holds '11', where 0 or 1 is right"):
        read(tmp_path)


def test_empty_files_and_odd_lines(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf\n \n")
    (tmp_path / "empty.json").write_bytes(b"")
    # A line separator of Unicode's inside a title is no end of a line.
    (tmp_path / "a.tsv").write_text('Id\tTitle\tGenre\nm1\t"One\u2028two\tWar\nm2\tThree\tDrama\n', encoding="utf-8")
    metadata = read(tmp_path)
    assert genres(metadata) == {"m1": ("War",), "m2": ("Drama",)}
    assert metadata.movies["title"].tolist() == ['"One two', "Three"]


def test_the_index_that_pandas_writes_may_be_the_ids(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",genres,,\nm1.jpg,War,,\nm2.jpg,Drama,,\n", encoding="utf-8")
    add_posters(tmp_path, "m1.jpg", "m2.jpg")
    assert genres(read(tmp_path)) == {"m1.jpg": ("War",), "m2.jpg": ("Drama",)}


def test_a_prefix_tells_labels_from_other_flags(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,is_color,genre_War,genre_Sci-Fi\nm1.jpg,1,0,1\nm2.jpg,0,ja,nein\n", encoding="utf-8")
    assert genres(read(tmp_path)) == {"m1.jpg": ("Sci-Fi",), "m2.jpg": ("War",)}
