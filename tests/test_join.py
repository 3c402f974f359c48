"""Metadata and posters are joined by ID; the split is stable, stratified, and never parts identical posters."""

import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from poster_genres.movies import choose_validation, genres_of, labels_of, read_movies
from tests.conftest import jpeg, make_dataset, set_parameters, stage
from tests.test_tracking import runs_of


def counts(project: Path) -> dict[str, object]:
    return dict(json.loads((project / "metrics" / "join.json").read_text(encoding="utf-8")))


def joined(project: Path) -> pd.DataFrame:
    stage("join", cwd=project)
    return read_movies(project / "data" / "movies.csv")


def truth(movies: pd.DataFrame) -> dict[str, str]:
    """Each movie's genres and its poster's file name."""
    genres = np.array(genres_of(movies))
    return {
        row.id: f"{' '.join(genres[labels > 0])} {row.poster}"
        for row, labels in zip(movies.itertuples(), labels_of(movies), strict=True)
    }


def test_joining_is_by_id_and_never_by_position(project: Path) -> None:
    set_parameters(project, limit=1000)
    before = truth(joined(project))
    assert len(before) == 80
    assert before["m003"] == "Horror m003.jpg"
    table = project / "data" / "posters" / "movies.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(rows)
    table.write_text("\n".join([header, "without,Drama", *rows]) + "\n", encoding="utf-8")
    (project / "data" / "posters" / "stranger.jpg").write_bytes(jpeg((1, 2, 3)))
    shuffled = joined(project)
    assert truth(shuffled) == before
    assert shuffled["id"].tolist() == [row.split(",")[0] for row in rows]
    assert counts(project)["rows_without_poster"] == 1
    assert counts(project)["posters_without_metadata"] == 1


def test_the_test_set_stays_the_same_whatever_the_limit(project: Path) -> None:
    def test_set() -> list[str]:
        movies = joined(project)
        return movies.loc[movies["split"] == "test", "id"].tolist()

    before = test_set()
    for limit in (10, 30):
        set_parameters(project, limit=limit)
        assert test_set() == before
        movies = read_movies(project / "data" / "movies.csv")
        assert (movies["split"] != "test").sum() == limit
        # The first ones, in the order of the metadata.
        others = [f"m{i:03}" for i in range(80) if f"m{i:03}" not in before]
        assert movies.loc[movies["split"] != "test", "id"].tolist() == others[:limit]


def test_a_limit_beyond_the_data_is_said_once(project: Path) -> None:
    set_parameters(project, limit=100_000)
    assert stage("join", cwd=project).stdout.count("limit: 100000 is more than the") == 1


def test_few_rows_and_images_that_belong_together_are_a_warning(project: Path) -> None:
    table = project / "data" / "posters" / "movies.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    others = [f"other{row}" for row in rows[30:]]
    table.write_text("\n".join([header, *rows[:30], *others]), encoding="utf-8")
    said = stage("join", cwd=project).stdout.splitlines()
    assert next(line for line in said if line.startswith("warning: ")) == (
        "warning: 30 of 80 rows and 30 of 80 images belong together: is that by accident, and does another column name the images? "
        "See `id_column`"
    )


def test_identical_posters_share_a_split(project: Path) -> None:
    folder = project / "data" / "posters"
    for i in range(0, 80, 2):
        shutil.copy(folder / f"m{i:03}.jpg", folder / f"m{i + 1:03}.jpg")
    set_parameters(project, limit=1000)
    split = joined(project).set_index("id")["split"]
    assert all(split[f"m{i:03}"] == split[f"m{i + 1:03}"] for i in range(0, 80, 2))
    assert set(split) == {"train", "validation", "test"}
    assert counts(project)["identical_posters"] == 40


def test_zip_archives_are_read_in_place_with_the_same_result(project: Path) -> None:
    in_folders = truth(joined(project))
    folder = project / "data" / "posters"
    shutil.make_archive(str(project / "posters"), "zip", folder)
    for path in folder.glob("*.jpg"):
        path.unlink()
    shutil.move(project / "posters.zip", folder / "posters.zip")
    with zipfile.ZipFile(folder / "posters.zip", "a") as archive:
        archive.writestr("__MACOSX/._m001.jpg", b"resource fork")
    (folder / "movies.csv").unlink()
    movies = joined(project)
    assert truth(movies) == in_folders
    assert set(movies["archive"]) == {"posters.zip"}
    stage("cache", cwd=project)


def test_validation_has_the_exact_size_and_the_genres_shares() -> None:
    labels = (np.random.default_rng(0).random((1000, 6)) < [0.5, 0.3, 0.1, 0.05, 0.03, 0.02]).astype(np.uint8)
    mask = choose_validation(labels, np.arange(1000), 0.2, seed=3)
    assert mask.sum() == 200
    assert np.abs(labels[mask].sum(axis=0) - 0.2 * labels.sum(axis=0)).max() <= 2
    assert (choose_validation(labels, np.arange(1000), 0.2, seed=3) == mask).all()
    assert (choose_validation(labels, np.arange(1000), 0.2, seed=4) != mask).any()


def test_unknown_genres_repeats_and_case_of_endings(project: Path) -> None:
    folder = project / "data" / "posters"
    table = folder / "movies.csv"
    with table.open("a", encoding="utf-8") as file:
        file.write('x1,N/A\nm000,Horror\nm001,"Drama, Horror"\n')
    (folder / "x1.JPG").write_bytes(jpeg((9, 9, 9)))
    (folder / "later").mkdir()
    shutil.copy(folder / "m000.jpg", folder / "later" / "m000.jpeg")
    movies = joined(project)
    assert "x1" not in set(movies["id"])
    assert "N/A" not in genres_of(movies)
    found = counts(project)
    assert (found["unknown_genres"], found["repeated_rows"], found["repeated_rows_with_other_genres"]) == (1, 2, 1)
    # A row per label is one movie: all of its labels count.
    labels = movies.set_index("id")
    assert labels.loc["m000", ["Comedy", "Drama", "Horror"]].tolist() == [1, 1, 1]


def remove_posters(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.unlink()


def rename_ids(folder: Path) -> None:
    table = folder / "movies.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("\nm", "\nx"), encoding="utf-8")


def bad_zip(member: str):  # type: ignore[no-untyped-def]
    def add(folder: Path) -> None:
        with zipfile.ZipFile(folder / "bad.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(member), b"x")

    return add


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_posters, "data/posters: no images found"),
        (lambda folder: (folder / "movies.csv").unlink(), "data/posters: no metadata found"),
        (rename_ids, "metadata has x000, x001, x002; images are m000.jpg, m001.jpg, m002.jpg"),
        (shutil.rmtree, "data/posters: no such folder"),
        (lambda folder: (folder / "a.zip").write_bytes(b"PK no zip"), "data/posters/a.zip: not a readable zip archive"),
        (bad_zip("../m001.jpg"), "'../m001.jpg' lies outside of the archive"),
        (bad_zip("/m001.jpg"), "'/m001.jpg' lies outside of the archive"),
        (bad_zip("a\\..\\..\\m001.jpg"), "lies outside of the archive"),
        (bad_zip("C:m001.jpg"), "'C:m001.jpg' lies outside of the archive"),
        (
            lambda folder: (folder / "movies.csv").write_text("Id,Genre\nm000,N/A\n"),
            "all 1 rows with an image have unknown labels",
        ),
        (
            lambda folder: (folder / "movies.csv").write_text("Id,Genre\nm000,Drama\nm001,Drama\n"),
            "one label only, 'Drama', on 2 of 2 images",
        ),
        (
            lambda folder: (folder / "movies.csv").write_bytes(b"\xef\xbb\xbfId,Genre\nm000,\xe9\n"),
            "not readable as utf-8-sig text",
        ),
    ],
)
def test_bad_data_is_one_clear_line_and_nothing_is_lost(project: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    joined(project)
    before = (project / "data" / "movies.csv").read_bytes(), (project / "metrics" / "join.json").read_bytes()
    spoil(project / "data" / "posters")
    assert message in stage("join", cwd=project, fails=True).stderr
    assert before == ((project / "data" / "movies.csv").read_bytes(), (project / "metrics" / "join.json").read_bytes())


def test_one_image_is_not_enough_to_train_on(project: Path) -> None:
    set_parameters(project, limit=10, validation=0.9)
    assert stage("join", cwd=project, fails=True).stderr.splitlines()[-1] == (
        "error: params.yaml: limit: 10 image(s) are too few to set 0.9 of them aside for validation and train on the rest, at "
        "least 2; raise `limit`, lower `validation`, or add images"
    )


@pytest.mark.parametrize(("limit", "message"), [(1, "limit: 1 image(s) are too few"), (2, "limit: 2 image(s) are too few")])
def test_a_limit_too_small_to_split(project: Path, limit: int, message: str) -> None:
    set_parameters(project, limit=limit)
    assert message in stage("join", cwd=project, fails=True).stderr


def test_no_movie_in_the_test_set(tmp_path: Path, project: Path) -> None:
    shutil.rmtree(project / "data" / "posters")
    make_dataset(project / "data" / "posters", movies=3)
    set_parameters(project, test=0.001)
    assert "none of the 3 images falls into the test set" in stage("join", cwd=project, fails=True).stderr


def test_the_real_posters_split_like_the_tutorial(project: Path, real_posters: Path) -> None:
    set_parameters(project, dataset=str(real_posters), limit=3000)
    movies = joined(project)
    assert movies["split"].value_counts().to_dict() == {"train": 2400, "validation": 600, "test": 1080}
    found = counts(project)
    assert (found["rows"], found["repeated_rows"], found["matched"]) == (4325, 12, 4313)
    assert (found["posters"], found["posters_without_metadata"], found["unknown_genres"]) == (4437, 124, 7)
    assert "N/A" not in genres_of(movies)
    assert (movies["title"] != "").mean() > 0.99
    # By ID: the poster's file name is the movie's, though the two orders differ.
    assert (movies["poster"].map(lambda path: Path(path).stem) == movies["id"]).all()


def test_what_was_understood_is_said(project: Path) -> None:
    folder = project / "data" / "posters"
    rows = [line.split(",", 1) for line in (folder / "movies.csv").read_text(encoding="utf-8").splitlines()[1:]]
    lines = ["imdbId;Title;Genre", *(f"{i};Film {i} (1999);{genres.strip(chr(34)).replace(', ', '|')}" for i, genres in rows)]
    (folder / "movies.csv").write_bytes("\n".join([*lines, "gone;Über (1999);drama", "m000;Film;Western"]).encode("cp1252"))
    for i in range(12):
        (folder / f"m{i:03}.jpg").write_bytes(jpeg((0, 0, 0)))
    set_parameters(project, limit=30)
    output = stage("join", cwd=project).stdout.splitlines()
    movies = read_movies(project / "data" / "movies.csv")
    assert output[:2] == [
        "metadata: movies.csv (cp1252, guessed, cells between ';')",
        "columns: ID 'imdbId'; labels 'Genre' (separator '|'); title 'Title'",
    ]
    assert output[2] == "one label in several spellings: drama as Drama"
    first = movies.iloc[0]
    shown = ", ".join(genre for genre in genres_of(movies) if first[genre])
    assert output[3] == f"  {first['id']}, {first['title']} (1999): {shown} [{first['poster']}]"
    test = int((movies["split"] == "test").sum())
    beyond = 80 - 12 - test - 30
    assert output[6] == "81 of 82 rows have an image (81 by file name); 80 images"
    assert output[7] == (
        "left out: 1 rows without an image (gone); 12 placeholders, one picture under more than 10 IDs; "
        f"{beyond} beyond `limit` (30)"
    )
    assert output[8] == "1 rows repeat an image, 1 with other labels: all of its labels count"
    frequent = ", ".join(movies[genres_of(movies)].sum().sort_values(ascending=False, kind="stable").index)
    assert output[9] == f"24 train, 6 validation, {test} test; 3 labels: {frequent}"
    assert counts(project)["understood"] == output[:3]


def test_pictures_are_never_another_folders(project: Path) -> None:
    folder = project / "data" / "posters"
    for name in ("train", "test"):
        (folder / name).mkdir()
    for i in range(80):
        shutil.move(folder / f"m{i:03}.jpg", folder / "train" / f"m{i:03}.jpg")
        (folder / "test" / f"m{i:03}.jpg").write_bytes(jpeg((5, 5, 5), 1000 + i))
    assert stage("join", cwd=project, fails=True).stderr.splitlines()[-1] == (
        "error: data/posters: 'm000' is the name of 2 images, test/m000.jpg and train/m000.jpg; write paths in the table, "
        "or keep one"
    )
    # The table's name is the folder's; or its IDs are paths, of any system.
    (folder / "movies.csv").rename(folder / "train.csv")
    assert joined(project)["poster"].str.startswith("train/").all()
    text = (folder / "train.csv").read_text(encoding="utf-8")
    (folder / "train.csv").rename(folder / "other.csv")
    for path in ("test/m", "test\\m"):
        (folder / "other.csv").write_text(text.replace("\nm", f"\n{path}"), encoding="utf-8")
        assert joined(project)["poster"].str.startswith("test/").all()


def write_a_table_a_split(project: Path) -> list[str]:
    """50 movies to train on, 10 to validate and 20 to test; returns their IDs."""
    folder = project / "data" / "posters"
    header, *rows = (folder / "movies.csv").read_text(encoding="utf-8").splitlines()
    (folder / "movies.csv").unlink()
    for name, part in (("train", rows[:50]), ("valid", rows[50:60]), ("test", rows[60:])):
        (folder / f"{name}.csv").write_text("\n".join([header, *part]) + "\n", encoding="utf-8")
    return [row.split(",")[0] for row in rows]


def test_the_files_splits_are_kept(project: Path) -> None:
    ids = write_a_table_a_split(project)
    set_parameters(project, split_by="files")
    movies = joined(project)
    assert movies["split"].tolist() == ["train"] * 50 + ["validation"] * 10 + ["test"] * 20
    assert movies["id"].tolist() == ids


def test_a_movie_that_is_named_like_a_split(project: Path) -> None:
    folder = project / "data" / "posters"
    for i in range(80):
        name = f"{'train' if i < 60 else 'test'}/{('train', 'bus')[i % 2]}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.move(folder / f"m{i:03}.jpg", folder / name / f"m{i:03}.jpg")
    table = folder / "movies.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("m079", "Train 79"), encoding="utf-8")
    (folder / "test" / "bus" / "m079.jpg").rename(folder / "test" / "bus" / "Train 79.jpg")
    set_parameters(project, split_by="files")
    hint = "split_by: a hash of the ID decides; `-S split_by=files` takes train, val and test from the names of files and folders"
    set_parameters(project, split_by="hash")
    assert hint in stage("join", cwd=project).stdout.splitlines()
    set_parameters(project, split_by="files")
    movies = joined(project)
    assert movies["id"].tolist()[60:] == [*[f"m{i:03}" for i in range(60, 79)], "Train 79"]
    assert movies["split"].tolist()[60:] == ["test"] * 20
    assert "test" not in movies["split"].tolist()[:60]
    # Archives are folders too; and what is in none of them is for training, as is said.
    for name in ("train", "test"):
        shutil.make_archive(str(folder / name), "zip", folder / name)
        shutil.rmtree(folder / name)
    movies = joined(project)
    assert movies["split"].tolist()[60:] == ["test"] * 20
    (folder / "train.zip").rename(folder / "posters.zip")
    assert stage("join", cwd=project).stdout.splitlines()[-1] == (
        "warning: 30 images are in no table, folder or archive named train, val or test: they are for training and validation"
    )
    (folder / "test.zip").rename(folder / "others.zip")
    assert stage("join", cwd=project, fails=True).stderr.splitlines()[-1] == (
        "error: data/posters: no table, folder or archive is named test, as `split_by: files` needs; set it to hash"
    )


def test_a_column_gives_the_splits(project: Path) -> None:
    table = project / "data" / "posters" / "movies.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    splits = [*["Train"] * 50, *["valid"] * 10, *["test"] * 20]

    def write(splits: list[str], *more: str) -> None:
        lines = [f"{header},Part", *(f"{row},{split}" for row, split in zip(rows, splits, strict=True)), *more]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")

    write(splits)
    hint = "split_by: a hash of the ID decides; `-S split_by=Part` takes train, val and test from column 'Part'"
    assert stage("join", cwd=project).stdout.splitlines()[-2] == hint
    set_parameters(project, split_by="Part")
    movies = joined(project)
    assert movies["split"].tolist() == ["train"] * 50 + ["validation"] * 10 + ["test"] * 20
    assert genres_of(movies) == ["Comedy", "Drama", "Horror"]
    write(["", *splits[1:]], "m070,Drama,train")
    assert stage("join", cwd=project).stdout.splitlines()[-2:] == [
        "warning: 1 images have no split in column 'Part': they are for training and validation",
        "warning: 1 images have several splits in column 'Part': that of their first row counts",
    ]
    movies = read_movies(project / "data" / "movies.csv")
    assert movies["split"].tolist() == ["train"] * 50 + ["validation"] * 10 + ["test"] * 20
    set_parameters(project, split_by="hash", limit=1000)
    without = [row.partition(",")[0] + "," for row in rows[60:]]
    rows[60:] = without  # of the test only the IDs are given
    write(splits)
    assert hint not in stage("join", cwd=project).stdout
    set_parameters(project, split_by="Part")
    write(["train"] * 80)
    assert stage("join", cwd=project, fails=True).stderr == (
        "error: data/posters: column 'Part' says test for none of the 60 images, as `split_by: Part` needs; set it to hash\n"
    )


def test_the_limit_leaves_validation_posters_that_are_given(project: Path) -> None:
    ids = write_a_table_a_split(project)
    set_parameters(project, split_by="files", limit=30)
    movies = joined(project)
    assert movies["id"].tolist() == ids[:30] + ids[50:]
    assert movies["split"].tolist() == ["train"] * 30 + ["validation"] * 10 + ["test"] * 20


def test_a_poster_that_is_missing_is_not_taken_from_another_folder(project: Path) -> None:
    folder = project / "data" / "posters"
    for name in ("train", "test"):
        (folder / name).mkdir()
    shutil.move(folder / "movies.csv", folder / "train" / "movies.csv")
    for i in range(80):
        poster = folder / f"m{i:03}.jpg"
        shutil.copy(poster, folder / "test")
        shutil.move(poster, folder / "train") if i >= 3 else poster.unlink()
    movies = joined(project)
    assert movies["id"].tolist() == [f"m{i:03}" for i in range(3, 80)]
    assert movies["poster"].str.startswith("train/").all()
    assert counts(project)["rows_without_poster"] == 3


def test_zeros_that_a_spreadsheet_cut_off(project: Path) -> None:
    folder = project / "data" / "posters"
    before = truth(joined(project))
    text = (folder / "movies.csv").read_text(encoding="utf-8")
    for i in range(80):
        (folder / f"m{i:03}.jpg").rename(folder / f"{i + 60:03}.jpg")
        text = text.replace(f"\nm{i:03},", f"\n{i + 60},")
    (folder / "movies.csv").write_text(text, encoding="utf-8")
    after = {f"m{int(movie) - 60:03}": said.split(" ")[:-1] for movie, said in truth(joined(project)).items()}
    assert after == {movie: said.split(" ")[:-1] for movie, said in before.items()}
    assert counts(project)["matched_by"] == {"file name": 40, "number": 40}


def test_names_of_other_systems(project: Path) -> None:
    before = joined(project)
    folder = project / "data" / "posters"
    with zipfile.ZipFile(folder / "posters.zip", "w") as archive:
        for path in sorted(folder.glob("*.jpg")):
            member = zipfile.ZipInfo("posters/" + path.name)
            member.filename = "posters\\" + path.name  # as some programs on Windows write it
            archive.writestr(member, path.read_bytes())
            path.unlink()
    movies = joined(project)
    assert movies.drop(columns=["archive", "poster"]).equals(before.drop(columns=["archive", "poster"]))
    assert movies["poster"].tolist() == [f"posters/{movie}.jpg" for movie in before["id"]]
    stage("cache", cwd=project)
    (folder / "posters.zip").rename(folder / "caf\udce9.zip")  # Latin-1
    assert stage("join", cwd=project, fails=True).stderr.splitlines()[-1] == (
        "error: data/posters: the name 'caf\\udce9.zip' is not UTF-8; rename it"
    )


NAMES = [
    "Children's",
    "Action & Adventure",
    "N/A-like",
    "Äction",
    "<b>",
    "a/b",
    "title",
    "$x^2$",
    "x" * 200,
    "poster",
    "../up",
    "Ünïcode 🎬",
]


def test_any_name_of_a_genre_works_from_the_table_to_mlflow(project: Path) -> None:
    folder = project / "data" / "posters"
    rows = ["Id|Genre", *(f"m{i:03}|{NAMES[i % len(NAMES)]};{NAMES[(i + 1) % len(NAMES)]}" for i in range(80))]
    (folder / "movies.csv").write_text("\n".join(rows), encoding="utf-8")
    set_parameters(project, limit=1000)
    for name in ("join", "cache", "detect", "train", "evaluate"):
        output = stage(name, cwd=project)
    assert "warning" not in output.stderr, output.stderr
    genres = genres_of(read_movies(project / "data" / "movies.csv"))
    assert set(genres) == {f"{name} (genre)" if name in ("title", "poster") else name for name in NAMES}
    said = stage("predict", folder / "m000.jpg", "--json", cwd=project).stdout
    assert set(json.loads(said)["genres"]) == set(genres)
    (run,) = runs_of(project)
    # Genres are in tables, and in no name of a metric, which takes few signs.
    assert {name.partition("/")[0] for name in run.data.metrics} <= {
        "curves",
        "system",
        "test",
        "test_prior",
        "training",
        "validation",
    }
    assert run.outputs is not None
    assert run.outputs.model_outputs
    assert "&lt;b&gt;" in (project / "metrics" / "report.html").read_text(encoding="utf-8")
