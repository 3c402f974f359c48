"""Tables of many programs and people, each read as a person would understand it, or refused with one clear line."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poster_genres import tables
from poster_genres.dataset import POSTER_SUFFIXES, File, list_files
from poster_genres.errors import InputError
from poster_genres.matching import Posters
from poster_genres.metadata import read_metadata

NAMES = ["Cyst", "Effusion", "Mass", "Nodule"]
# Of the images i00.png to i11.png the labels; each name also stands alone.
LABELS = [[name] for name in NAMES] + [
    NAMES[:2],
    NAMES[1:3],
    NAMES[2:],
    NAMES[:3],
    NAMES[1:],
    [NAMES[0], NAMES[3]],
    NAMES,
    NAMES[:1],
]
IMAGES = [f"i{i:02}.png" for i in range(len(LABELS))]


def read(folder: Path, files: dict[str, str | bytes]) -> dict[str, list[str] | None]:
    """The labels of each image, sorted, by a table in a folder; None where they are unknown."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for image in IMAGES:
        (folder / image).write_bytes(image.encode())
    found = list_files(folder)
    images = Posters(str(folder), [file for file in found if file.suffix in POSTER_SUFFIXES])
    rows = read_metadata(folder, found, images).movies
    numbers, _ = images.match(list(rows["id"]), list(rows["table"]))
    labels: dict[str, list[str] | None] = {}
    for number, names, known in zip(numbers, rows["genres"], rows["known"], strict=True):
        if number is not None:
            before = labels.get(images.files[number].name) or []
            labels[images.files[number].name] = sorted({*before, *names}) if known else None
    return labels


def refusal(folder: Path, files: dict[str, str | bytes]) -> str:
    with pytest.raises(InputError) as error:
        read(folder, files)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "").removeprefix(f"{folder}: ")


TRUTH: dict[str, list[str] | None] = dict(zip(IMAGES, LABELS, strict=True))


def written(cell: Callable[[list[str]], str], header: str = "image,labels", delimiter: str = ",") -> str:
    """A CSV table with the labels of each image in a cell."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header.split(","))
    writer.writerows([image, cell(labels)] for image, labels in TRUTH.items() if labels is not None)
    return text.getvalue()


def flags(yes: str, no: str, delimiter: str = ",", before: str = "") -> str:
    """A CSV table with a column per label."""
    rows = [[image, *(yes if name in labels else no for name in NAMES)] for image, labels in TRUTH.items() if labels is not None]
    return "\n".join(delimiter.join(row) for row in [["image", *(before + name for name in NAMES)], *rows])


PLAIN = written("|".join)
COCO: dict[str, Any] = {
    "images": [{"id": i, "file_name": image} for i, image in enumerate(IMAGES)],
    "annotations": [
        {"id": 10 * i + k, "image_id": i, "category_id": NAMES.index(name) + 1, "bbox": [0, 0, 9, 9]}
        for i, labels in enumerate(LABELS)
        for k, name in enumerate([*labels, labels[0]])
    ],
    "categories": [{"id": i + 1, "name": name, "supercategory": "finding"} for i, name in enumerate(NAMES)],
    "info": {"year": 2024},
}
LABEL_STUDIO = [
    {
        "id": i,
        "data": {"image": f"/data/local-files/?d=scans/{image}"},
        "annotations": [{"was_cancelled": False, "result": [{"type": "choices", "value": {"choices": labels}}]}],
    }
    for i, (image, labels) in enumerate(TRUTH.items())
]
CELEBA = f"{len(IMAGES)}\n{' '.join(NAMES)}\n" + "".join(
    f"{image} {' '.join(' 1' if name in labels else '-1' for name in NAMES)}\n"
    for image, labels in zip(IMAGES, LABELS, strict=True)
)
MOVIELENS = "".join(f"{i}::Film {i} (1995)::{'|'.join(labels)}\n" for i, labels in enumerate(LABELS))
ORDINALS = "image,Primary Genre,Secondary Genre,Third Genre,genre_4\n" + "".join(
    f"{image},{','.join((*labels, '', '', ''))[: len(','.join(labels)) + 4 - len(labels)]}\n"
    for image, labels in zip(IMAGES, LABELS, strict=True)
)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"annotations/instances.json": json.dumps(COCO)}, id="COCO"),
        pytest.param({"list_attr_celeba.txt": CELEBA}, id="CelebA"),
        pytest.param({"movies.dat": MOVIELENS, "ratings.dat": "1::1::5::978300760\n"}, id="MovieLens"),
        pytest.param({"project.json": json.dumps(LABEL_STUDIO)}, id="Label Studio"),
        pytest.param({"a.json": json.dumps({"page": 1, "results": [{"id": i, "tags": t} for i, t in TRUTH.items()]})}, id="frame"),
        pytest.param({"a.json": json.dumps(TRUTH)}, id="labels by file name"),
        pytest.param({"a.json": json.dumps({i[:-4]: {"id": 11 - n, "tags": t} for n, (i, t) in enumerate(TRUTH.items())})},
                     id="by file name, with IDs of their own"),
        pytest.param({"a.json": json.dumps({n: {"id": i, "tags": t} for n, (i, t) in enumerate(TRUTH.items())})},
                     id="by a running number"),
        pytest.param({"a.json": pd.DataFrame({"id": IMAGES, "tags": LABELS}).to_json(orient="split")}, id="pandas split"),
        pytest.param({"a.json": pd.DataFrame({"id": IMAGES, "tags": LABELS}).to_json(orient="table")}, id="pandas table"),
        pytest.param({"a.jsonl": "\n".join(json.dumps({"image": {"path": i, "bytes": None}, "tags": t}) for i, t in TRUTH.items())},
                     id="Hugging Face"),
        pytest.param({f"{image[:-4]}.json": json.dumps({"labels": labels, "by": labels}) for image, labels in TRUTH.items()},
                     id="a JSON per image"),
        pytest.param({"a.json": json.dumps({"file_name": IMAGES, "tags": LABELS})}, id="columns in JSON"),
        pytest.param({"a.csv": written(";".join, "SourceFile,Keywords")}, id="ExifTool"),
        pytest.param({"a.json": json.dumps([{"SourceFile": f"./{i}", "Subject": t if len(t or []) > 1 else (t or [""])[0]}
                                            for i, t in TRUTH.items()])}, id="ExifTool's JSON"),
        pytest.param({"a.csv.gz": gzip.compress(PLAIN.encode())}, id="gz"),
        pytest.param({"a.tsv.bz2": bz2.compress(PLAIN.replace(",", "\t").encode())}, id="bz2"),
        pytest.param({"a.jsonl.xz": lzma.compress("\n".join(json.dumps({"id": i, "tags": t}) for i, t in TRUTH.items()).encode())},
                     id="xz"),
        pytest.param({"a.csv": PLAIN.encode("utf-32")}, id="UTF-32"),
        pytest.param({"a.csv": PLAIN + "\0\x1a"}, id="end of file"),
        pytest.param({"a.csv": written(lambda names: f"\u201c{'|'.join(names)}\u201d")}, id="quotes around cells"),
        pytest.param({"a.csv": written(lambda names: ", ".join(f'"{name}"' for name in names))}, id="quotes around names"),
        pytest.param({"a.csv": PLAIN.replace("i0", '="i0').replace(".png", '.png"').replace("i1", '="i1')}, id="Excel's zeros"),
        pytest.param({"a.csv": written(lambda names: "".join(f"<{name}>" for name in names))}, id="Stack Overflow"),
        pytest.param({"a.csv": written(lambda names: "\n".join(f"- {name}" for name in names))}, id="bullets"),
        pytest.param({"a.csv": written(lambda names: json.dumps(json.dumps(names)))}, id="JSON in JSON"),
        pytest.param({"a.csv": written(lambda names: json.dumps({f"/m/0{NAMES.index(n)}": n for n in names}))}, id="Freebase"),
        pytest.param({"a.csv": written(lambda names: repr([(NAMES.index(name), name) for name in names]))}, id="pairs"),
        pytest.param({"a.csv": written("::".join)}, id="colons"),
        pytest.param({"a.csv": written("_".join)}, id="underscores"),
        pytest.param({"a.csv": written(" und ".join)}, id="und"),
        pytest.param({"a.csv": ORDINALS}, id="ordinals"),
        pytest.param({"a.csv": flags("\u2713", "", before="label=")}, id="ticks"),
        pytest.param({"a.csv": flags("1,0", "0,0", ";")}, id="decimal commas"),
        pytest.param({"a.csv": flags("'1'", "nan")}, id="nan for no"),
        pytest.param({"a.csv": flags("positive", "negative")}, id="words"),
        pytest.param({"a.csv": flags("\u2714\ufe0f", "\u2718")}, id="ticks of phones"),
        pytest.param({"a.csv": PLAIN.replace(".png", ".jpg")}, id="other endings"),
        pytest.param({"a.csv": PLAIN, "~$a.xlsx": "\x05Ann"}, id="Excel has it open"),
        pytest.param({"a.csv": written("; ".join, "image,main_genre,genres").replace(".png,", ".png,Mass,")},
                     id="main genre beside genres"),
        pytest.param({"a.csv": flags("1", "0").replace("image", "subject,image").replace("\ni", "\nS1,i")}, id="subject"),
        pytest.param({"a.json": json.dumps([{"image": i, "tags": [{"name": n, "value": n in (t or [])} for n in NAMES]}
                                            for i, t in TRUTH.items()])}, id="true and false"),
        pytest.param({"a.json": json.dumps([{"image": i, "tags": {n: "yes" if n in (t or []) else "no" for n in NAMES}}
                                            for i, t in TRUTH.items()])}, id="yes and no"),
        pytest.param({"a.csv": "image,label_id,label_name\n" + "".join(
            f"{image},{NAMES.index(n)},{n}\n" for image, labels in TRUTH.items() for n in labels or [])}, id="numbers too"),
    ],
)  # fmt: skip
def test_it_is_read_as_a_person_would(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    assert read(tmp_path, files) == TRUTH


@pytest.mark.parametrize(
    ("text", "end", "encoding"),
    [
        ("Com\u00e9die|\u00c9pop\u00e9e", "\r", "mac_roman"),
        ("Kom\u00f6die|M\u00e4rchen", "\r", "mac_roman"),
        ("Skr\u00e4ck|\u00c4ventyr", "\n", "mac_roman"),
        ("Com\u00e9die|\u00c9pop\u00e9e", "\n", "cp1252"),
        ("Skr\u00e4ck|\u00c4ventyr", "\r\n", "cp1252"),
    ],
)
def test_a_mac_writes_other_bytes(tmp_path: Path, text: str, end: str, encoding: str) -> None:
    rows = ["image,genres", *(f"{image},{text if i % 2 else text.partition('|')[0]}" for i, image in enumerate(IMAGES))]
    genres = text.split("|")
    found = read(tmp_path, {"a.csv": end.join(rows).encode(encoding)})
    assert found == {image: sorted(genres if i % 2 else genres[:1]) for i, image in enumerate(IMAGES)}


def test_a_few_wrong_bytes_change_no_other_row(tmp_path: Path) -> None:
    """Rows that somebody pasted from another file."""
    rows = [f"{image},Com\u00e9die,Caf\u00e9 {i}\n".encode() for i, image in enumerate(IMAGES)]
    rows[7] = rows[7].decode().encode("cp1252")
    (tmp_path / "a.csv").write_bytes(b"image,genres,title\n" + b"".join(rows))
    metadata = read_metadata(tmp_path, list_files(tmp_path), Posters(str(tmp_path), []))
    assert metadata.movies["title"].tolist() == [f"Caf\u00e9 {i}" for i in range(len(IMAGES))]
    assert metadata.movies["genres"].tolist() == [("Com\u00e9die",)] * len(IMAGES)
    assert metadata.understood[0] == "metadata: a.csv (utf-8, but 2 byte(s) read as cp1252, the first in line 9, cells between ',')"


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    numbers = [[str(100 * i + k) for k in range(len(labels))] for i, labels in enumerate(LABELS)]
    text = "id,attribute_ids\n" + "".join(f"{image},{' '.join(row)}\n" for image, row in zip(IMAGES, numbers, strict=True))
    assert read(tmp_path, {"a.csv": text}) == {image: sorted(row) for image, row in zip(IMAGES, numbers, strict=True)}
    text = "id,label\n" + "".join(f"{image},{f'{i % 3}.0' if i else ''}\n" for i, image in enumerate(IMAGES))
    assert read(tmp_path, {"a.csv": text}) == {image: [str(i % 3)] if i else None for i, image in enumerate(IMAGES)}


def test_zeros_are_known_and_empty_cells_are_not(tmp_path: Path) -> None:
    labels = read(tmp_path, {"a.csv": "image,Mass,Cyst,Nodule\ni00.png,0,0,0\ni01.png,,,\ni02.png,0,1,\ni03.png,-1,-1,-1\n"})
    assert labels == {"i00.png": [], "i01.png": None, "i02.png": ["Cyst"], "i03.png": []}


def test_uncertain_findings_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,Mass,Cyst\ni00.png,1.0,-1.0\ni01.png,-1.0,0.0\ni02.png,0.0,1.0\n", encoding="utf-8")
    found = list_files(tmp_path)
    metadata = read_metadata(tmp_path, found, Posters(str(tmp_path), []))
    assert metadata.understood[-1] == (
        "columns: ID 'image'; labels 2 columns of zeros and ones: Mass, Cyst, 2 cells of -1 beside zeros read as 0"
    )
    assert metadata.movies["genres"].tolist() == [("Mass",), (), ("Cyst",)]


def test_parquet_files_of_pandas_own_types(tmp_path: Path) -> None:
    """Missing cells are empty, and an index may repeat a column."""
    frame = pd.DataFrame({"id": IMAGES, "labels": LABELS, "split": ["train", None, "test"] * 4}).convert_dtypes()
    frame.set_index("id", drop=False).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path, {}) == TRUTH
    files, images = list_files(tmp_path), Posters(str(tmp_path), [])
    given = read_metadata(tmp_path, files, images, id_column="id", split_by="split").movies["given_split"]
    assert given.tolist() == ["train", "", "test"] * 4


def test_columns_of_zeros_and_ones_may_be_named_like_other_columns(tmp_path: Path) -> None:
    for header, names in {
        "label_0,label_1,label_2,label_3": ["0", "1", "2", "3"],
        "Class 1,Class 2,Class 3,Class 4": ["1", "2", "3", "4"],
        "tag1,tag2,tag3,tag4": ["tag1", "tag2", "tag3", "tag4"],
        "movie,book,date,music": ["movie", "book", "date", "music"],
    }.items():
        text = flags("1", "0").replace(",".join(NAMES), header)
        found = read(tmp_path, {"a.csv": text})
        wanted = {image: sorted(names[NAMES.index(name)] for name in labels or []) for image, labels in TRUTH.items()}
        assert found == wanted, header


def understood(folder: Path, text: str, images: int = 0) -> list[str]:
    """How a table is said to be read, with images 0.jpg, 1.jpg, …"""
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return read_metadata(folder, [File("", "a.csv", 1)], Posters("", [File("", f"{i}.jpg", 1) for i in range(images)])).understood


def test_columns_that_could_hold_labels_and_do_not_are_named(tmp_path: Path) -> None:
    assert understood(tmp_path, "id,category,new,sale\n0,Bags,1,0\n1,Shoes,0,1\n")[1] == (
        "columns: ID 'id'; labels 'category' (separator none: one label per cell); not labels: 'new', 'sale'"
    )
    assert understood(tmp_path, "id,bus,car,train\n0,1,0,1\n1,0,1,0\n")[1] == (
        "columns: ID 'id'; labels 2 columns of zeros and ones: bus, car; not labels: 'train'"
    )
    assert understood(tmp_path, "id,label,large\n0,bus,yes\n0,car,no\n1,car,no\n")[2] == (
        "column 'large' says yes and no in rows of one image: the labels of all rows count"
    )
    # What a question is about, or a score that images have, says nothing of labels.
    for rows in ("id,label,answer\n0,bus,3\n0,car,1\n1,car,2\n", "id,label,answer\n0,bus,yes\n0,bus,no\n1,car,no\n"):
        assert len(understood(tmp_path, rows)) == 2
    assert understood(tmp_path, "id,bus,car\n0,yes,no\n1,no,unknown\n")[2] == "taken as unknown: 'unknown' (1 cells)"


def test_numbers_that_happen_to_be_names_of_images_are_not_the_ids(tmp_path: Path) -> None:
    rows = "".join(f"{'3' if i == 7 else f'Game {i}'},{i},{'RPG' if i % 2 else 'Puzzle'}\n" for i in range(10))
    assert understood(tmp_path, f"name,appid,genre\n{rows}", images=10)[1].startswith("columns: ID 'appid'; labels 'genre'")
    # Nor are numbers that recur, as minutes, where few images are there.
    rows = "".join(f"{i},{i % 9},{'RPG' if i % 2 else 'Puzzle'}\n" for i in range(100))
    assert understood(tmp_path, f"id,runtime,genre\n{rows}", images=10)[1].startswith("columns: ID 'id'; labels 'genre'")


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["Clothing, Shoes & Jewelry"] * 9 + ["Toys, Games"] * 2 + ["Books"] * 9, "none: one label per cell"),
        (["Blue", "Green", "Red", "Dark Blue", "Dark Green"] * 3, "none: one label per cell"),
        (["Crime", "Drama", "War", "Crime Drama", "Drama War", "War Crime", "Drama Musical", "Crime Musical"] * 3, "space"),
        (
            ["left upper wheel", "left lower wheel", "right upper wheel", "spare rear door", "hood", "left mirror"],
            "none: one label per cell",
        ),
        (["Toys, Games"] * 40 + ["Arts, Crafts"] * 40 + ["Books", "Sports"] * 9 + ["Toys, Games; Arts, Crafts"], "';'"),
        ([f"{a}, {b}" for a in NAMES for b in NAMES if a != b] * 2 + ["Mass; Cyst"], "','"),
        (
            [*(f"clear {n.lower()}" for n in NAMES * 3), *(f"cloudy {n.lower()} water" for n in NAMES * 3), "clear mass mine"],
            "space",
        ),
    ],
)
def test_what_stands_between_labels(tmp_path: Path, cells: list[str], form: str) -> None:
    rows = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    assert understood(tmp_path, f"id,category\n{rows}")[1] == f"columns: ID 'id'; labels 'category' (separator {form})"


def test_a_separator_may_be_given_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,category\n0,Dark Blue\n1,Red\n", encoding="utf-8")
    rows = read_metadata(tmp_path, [File("", "a.csv", 1)], Posters("", []), separator="space").movies
    assert rows["genres"].tolist() == [("Dark", "Blue"), ("Red",)]


@pytest.mark.parametrize(
    ("text", "genres"),
    [
        ("id,subject,loaned,in_print\n0,Fiction; War,1,0\n1,Poetry,0,1\n", [("Fiction", "War"), ("Poetry",)]),
        ("id,genre,genres\n0,Drama,\\N\n1,War,N/A\n", [("Drama",), ("War",)]),
        ('id,genre,genres\n0,Drama,"[{""id"": 18}]"\n1,War,"[{""id"": 7}]"\n', [("Drama",), ("War",)]),
        ("id,cat,dog,released\n0,1,0,1\n1,0,1,0\n", [("cat",), ("dog",)]),
        ("id,cat,dog\n0,\u25cb,\u00d7\n1,\u00d7,\u25cb\n", [("cat",), ("dog",)]),
        ("id,genre\n0,Drama\n,War\n", [("Drama",), ("War",)]),
    ],
)
def test_labels_are_where_a_person_sees_them(tmp_path: Path, text: str, genres: list[tuple[str, ...]]) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert read_metadata(tmp_path, [File("", "a.csv", 1)], Posters("", [])).movies["genres"].tolist() == genres


def test_a_state_of_a_form_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([{"id": "0", "tags": [{"name": "Drama", "selected": False}]}] * 2), encoding="utf-8"
    )
    rows = read_metadata(tmp_path, [File("", "a.json", 1)], Posters("", [])).movies
    assert rows["genres"].tolist() == [("Drama",)] * 2


def test_a_sheet_may_be_chosen(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        pd.DataFrame({"id": ["0", "1"], "genres": ["Drama", "Comedy"]}).to_excel(book, sheet_name="Films", index=False)
        pd.DataFrame({"id": ["0", "1"], "tags": ["old", "new"]}).to_excel(book, sheet_name="Notes", index=False)
    files, images = list_files(tmp_path), Posters("", [])
    with pytest.raises(InputError, match=r"tables of different forms .* set `metadata` in params.yaml to one of them$"):
        read_metadata(tmp_path, files, images)
    assert read_metadata(tmp_path, files, images, "a.xlsx/Films").movies["genres"].tolist() == [("Drama",), ("Comedy",)]
    with pytest.raises(InputError, match=r"metadata: .* has no table 'a.xlsx/Nots'; it has a.xlsx/Films, a.xlsx/Notes$"):
        read_metadata(tmp_path, files, images, ["a.xlsx/Films", "a.xlsx/Nots"])


def test_all_sheets_of_a_workbook_are_read(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        pd.DataFrame({"note": ["Read me"]}).to_excel(book, sheet_name="About", index=False)
        for name, rows in (("train", slice(0, 8)), ("test", slice(8, None))):
            frame = pd.DataFrame({"image": IMAGES[rows], "labels": ["; ".join(labels) for labels in LABELS[rows]]})
            frame.to_excel(book, sheet_name=name, index=False)
    assert read(tmp_path, {}) == TRUTH


def test_the_rows_names_of_a_parquet_file_may_be_the_ids(tmp_path: Path) -> None:
    pd.DataFrame({"labels": LABELS}, index=IMAGES).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path, {}) == TRUTH


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.csv": 'image,title,labels\ni00.png,"A,Mass\ni01.png,B,Cyst\ni02.png,"C, D",Mass\n'},
            "a.csv, row 2: a double quote opens a cell and does not close it; remove it, or write two",
        ),
        (
            {"a.csv": "i00.png,Mass\ni01.png,Cyst\n"},
            "a.csv: begins with 'i00.png', which names an image; write a header above it, as id,labels",
        ),
        (
            {"a.csv": "id,imdbId,labels\n" + "".join(f"{i},{11 - i},Mass\n" for i in range(12))},
            "a.csv: 'id' and 'imdbId' could both name the images, but not the same ones; set `id_column` to one of them",
        ),
        (
            {"a.csv": "image,label,verified\ni00.png,Mass,yes\ni00.png,Cyst,no\ni01.png,Cyst,yes\n"},
            "a.csv: column 'verified' says no of some labels; keep the rows whose label is right, and leave that column out",
        ),
        (
            {"a.csv": "image,label,count\ni00.png,Mass,3\ni00.png,Cyst,0\ni01.png,Cyst,2\n"},
            "a.csv: column 'count' has values from 0 for the rows' labels; keep the rows whose label is right, and leave that "
            "column out",
        ),
        (
            {"a.csv": "image,label\ni00.gif,Mass\ni00.bmp,Cyst\n"},
            "IDs 'i00.gif' and 'i00.bmp' differ in their endings only; write them as images are named",
        ),
        (
            {"a.csv.gz": gzip.compress(PLAIN.encode())[:-9]},
            "a.csv.gz: cannot be unpacked: Compressed file ended before the end-of-stream marker was reached; download it again",
        ),
        (
            {"a.json": json.dumps(COCO | {"categories": [{"id": 1, "name": "Cyst"}]})},
            "a.json: not COCO's format: of its images, annotations and categories one lacks 2",
        ),
        (
            {"a.csv": f",labels,labels,labels,labels\n{flags('1', '0')}"},
            "a.csv, row 2: a second header, Cyst, Effusion, Mass, Nodule; keep one row of names",
        ),
        (
            {"a.csv": f",tags,tags,tags,tags\n{flags('True', 'False')}"},
            "a.csv, row 2: a second header, Cyst, Effusion, Mass, Nodule; keep one row of names",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    assert refusal(tmp_path, files) == message


def test_a_quote_that_is_a_letter_loses_nothing(tmp_path: Path) -> None:
    rows = [
        f'{image},{"7" if i else ""}"Title,{"|".join(labels)}' for i, (image, labels) in enumerate(zip(IMAGES, LABELS, strict=True))
    ]
    assert read(tmp_path, {"a.csv": "\n".join(["image,title,labels", *rows])}) == TRUTH
    rows = [f'{image},"A \\"B, C\\" D",{"|".join(labels)}' for image, labels in zip(IMAGES, LABELS, strict=True)]
    assert read(tmp_path, {"a.csv": "\n".join(["image,title,labels", *rows])}) == TRUTH


def test_a_compressed_table_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_BYTES", 1 << 20)
    bomb = gzip.compress(b"image,labels\n" + b"i00.png,Mass\n" * 100_000)
    assert len(bomb) < 10_000
    assert refusal(tmp_path, {"a.csv.gz": bomb}) == "a.csv.gz: more than 1 MB unpacked; keep the rows of your images only"


KEYS = [
    "images", "annotations", "categories", "id", "image_id", "category_id", "name", "file_name", "data", "result", "value",
    "columns", "index", "labels", "a.png", "b.png", "path", "bytes",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON)
def test_any_json_is_read_or_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    try:
        read_metadata(tmp_path, [File("", "a.json", 1)], Posters(str(tmp_path), []))
    except InputError as error:
        assert "\n" not in str(error)
