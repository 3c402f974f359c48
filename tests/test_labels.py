"""Cells that name labels: any list of names, written as people and programs write it, comes back."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poster_genres.errors import InputError
from poster_genres.labels import NO_SEPARATOR, choose_separator, is_unknown, read_labels, tidy

WORDS = ["Action", "Comedy", "Crime", "Drama", "Horror", "Sci-Fi", "War", "Western"]
PHRASES = ["Science Fiction", "TV Movie", "Action & Adventure", "Drama", "R'n'B", "Film-Noir", "Élan", "Children's", "Rock/Pop"]


def where(row: int) -> str:
    return f"t.csv, row {row}"


def read(cells: Sequence[object], separator: str = "auto") -> list[tuple[str, ...]]:
    return read_labels(list(cells), separator, where).rows


# A column of names as a separator or a program writes it.
WRITERS: dict[str, Callable[[Sequence[str]], object]] = {
    "comma": ", ".join,
    "comma without space": ",".join,
    "pipe": "|".join,
    "spaced pipe": " | ".join,
    "semicolon": "; ".join,
    "tab": "\t".join,
    "line break": "\n".join,
    "full-width comma": "\uff0c".join,
    "ideographic comma": "\u3001".join,
    "Python list": lambda names: repr(list(names)),
    "Python tuple": lambda names: repr(tuple(names)),
    "JSON": lambda names: json.dumps(list(names)),
    "JSON in ASCII": lambda names: json.dumps(list(names), ensure_ascii=True),
    "numbers": lambda names: " ".join(f"{i}. {name}" for i, name in enumerate(names, 1)),
    "numbers in lines": lambda names: "\n".join(f"{i}) {name}" for i, name in enumerate(names, 1)),
    "XML": lambda names: "".join(f"<genre>{name}</genre>" for name in names),
    "links": lambda names: ", ".join(f'<a href="/g/{i}">{name}</a>' for i, name in enumerate(names)),
    "footnotes": lambda names: ", ".join(f"{name}[{i}]" for i, name in enumerate(names, 1)),
    "NumPy 2": lambda names: "[" + ", ".join(f"np.str_({name!r})" for name in names) + ", nan]",
    "pandas index": lambda names: f"Index({list(names)!r}, dtype='object')",
    "counts": lambda names: f"Counter({dict.fromkeys(names, 1)!r})",
    "bytes": lambda names: repr("|".join(names).encode()),
    "NumPy": lambda names: "[" + " ".join(repr(name) for name in names) + "]",
    "pandas array": lambda names: f"array({list(names)!r}, dtype=object)",
    "TMDB": lambda names: json.dumps([{"id": i, "name": name} for i, name in enumerate(names)]),
    "TMDB in Python": lambda names: repr([{"id": i, "name": name} for i, name in enumerate(names)]),
    "Label Studio": lambda names: json.dumps({"choices": list(names)}),
    "PostgreSQL": lambda names: "{" + ",".join(f'"{name}"' for name in names) + "}",
    "a list already": list,
    "dictionaries already": lambda names: [{"name": name} for name in names],
}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=4, unique=True), min_size=12, max_size=30),
    writer=st.sampled_from(sorted(WRITERS)),
)
def test_what_is_written_comes_back(rows: list[list[str]], writer: str) -> None:
    # Some cell shows the form.
    rows = [*rows, PHRASES[:3], PHRASES[2:5]]
    assert read([WRITERS[writer](row) for row in rows]) == [tuple(row) for row in rows]


NAME = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="|;\uff0c\uff1b\u3001"), min_size=1, max_size=30
)


# What can write any name: the others rely on signs that are no part of names.
ANY = [
    "pipe", "JSON", "JSON in ASCII", "Python list", "Python tuple", "TMDB", "TMDB in Python", "Label Studio", "a list already",
    "dictionaries already",
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(NAME, min_size=1, max_size=4), min_size=1, max_size=12),
    writer=st.sampled_from(ANY),
)
def test_any_names_come_back(rows: list[list[str]], writer: str) -> None:
    rows = [list({tidy(name).casefold(): tidy(name) for name in row if not is_unknown(tidy(name))}.values()) for row in rows]
    names = {name for row in rows for name in row}
    assume(len({unicodedata.normalize("NFKC", name).casefold().removesuffix(".") for name in names}) == len(names))
    # Tidy names stay as they are: none is in quotes.
    assume(all(tidy(name) == name for name in names))
    rows = [*[row for row in rows if row], ["A first name", "A second name"]]
    cells = [WRITERS[writer](row) for row in rows]
    # Nor is a cell of them what a program writes: a list, a tag, bytes.
    assume(writer != "pipe" or not any(str(cell)[0] in "[({<b" and str(cell)[-1] in "])}>'\"" for cell in cells))
    assert read(cells) == [tuple(row) for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True), min_size=10, max_size=30),
    sign=st.sampled_from([" ", "/", " / ", "&", " & ", " + ", " and ", " · ", "<br>", "#"]),
)
def test_unsure_signs_separate_names_that_recur(rows: list[list[str]], sign: str) -> None:
    rows = [*rows, *([word] for word in WORDS), WORDS[:3], WORDS[2:5], WORDS[4:]]
    assert read([sign.join(row) for row in rows]) == [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["Science Fiction", "TV Movie", "Drama", "Comedy"], NO_SEPARATOR),
        (["Action/Adventure", "Drama", "Sci-Fi & Fantasy", "Comedy"], NO_SEPARATOR),
        (["Action/Adventure", "Drama, Sci-Fi & Fantasy", "Comedy, Drama"], ","),
        (["Romantic Comedy", "Musical Comedy", "Romantic Drama", "Comedy", "Drama"], NO_SEPARATOR),
        (["clear primary", "agriculture clear primary water", "haze primary", "agriculture haze water clear"], " "),
        (["Toys & Games|Arts, Crafts & Sewing", "Books"], "|"),
        (["Comedy, Drama"], ","),
        (["Drama"], NO_SEPARATOR),
        (["C#", "C", "C++", "Java"], NO_SEPARATOR),
        ([], NO_SEPARATOR),
    ],
)
def test_a_sign_is_a_separator_or_part_of_a_name(cells: list[str], separator: str) -> None:
    assert choose_separator(Counter(cells)) == separator


def test_names_with_commas_that_are_repeated_whole_stay_whole() -> None:
    cells = ["Arts, Crafts"] * 9 + ["Books"] * 5 + ["Movies, TV"] * 8
    assert read(cells) == [(cell,) for cell in cells]


@pytest.mark.parametrize(
    "unknown",
    [
        "",
        "N/A",
        "n/a",
        "NA",
        "nan",
        "NaN",
        "None",
        "NULL",
        "null",
        r"\N",
        "-",
        "?",
        "unknown",
        "Unknown",
        "(no genres listed)",
        "#N/A",
        "<NA>",
        "[]",
        "{}",
    ],
)
def test_unknown_is_no_genre(unknown: str) -> None:
    assert read(["Comedy, Drama", unknown, f"Drama, {unknown}", "News"]) == [("Comedy", "Drama"), (), ("Drama",), ("News",)]
    assert read([["Comedy", unknown], None, []]) == [("Comedy",), (), ()]


def test_names_that_look_like_unknown_stay() -> None:
    cells = ["News", "Short", "Unknown Pleasures", "Nan Goldin", "Nonesuch"]
    assert read(cells) == [(cell,) for cell in cells]


def test_spellings_are_one_and_it_is_said() -> None:
    labels = read_labels(["comedy, Drama", "Comedy", "DRAMA,comedy", "Cafe\u0301", "Caf\u00e9", " Film  Noir "], "auto", where)
    assert labels.rows == [("Comedy", "Drama"), ("Comedy",), ("Drama", "Comedy"), ("Caf\u00e9",), ("Caf\u00e9",), ("Film Noir",)]
    assert labels.merged == {"comedy": "Comedy", "DRAMA": "Drama"}


def test_a_full_stop_is_no_part_of_a_name() -> None:
    labels = read_labels(["Comedy, Drama.", "Drama.", "Comedy.", "Sci-Fi.", "Drama."], "auto", where)
    assert labels.rows == [("Comedy", "Drama."), ("Drama.",), ("Comedy",), ("Sci-Fi.",), ("Drama.",)]
    assert labels.merged == {"Comedy.": "Comedy"}


def test_what_was_taken_as_unknown_is_counted() -> None:
    labels = read_labels(["NA", "EU, NA", "EU", "", "AS, ..."], "auto", where)
    assert labels.rows == [(), ("EU",), ("EU",), (), ("AS",)]
    assert labels.unknown == {"NA": 2, "...": 1}


def test_nan_within_a_list_is_a_word_or_nothing() -> None:
    assert read(["[pad thai, nan bread]", "[garlic nan, pad thai]"]) == [("pad thai", "nan bread"), ("garlic nan", "pad thai")]
    assert read(["['nan bread', nan]", "[nan]", "{rice,nan}"]) == [("nan bread",), (), ("rice",)]


def test_a_footnote_is_behind_a_name() -> None:
    assert [tidy(name) for name in ("Drama[1][12]", "[1]", "a[b]")] == ["Drama", "[1]", "a[b]"]


def test_numbers_that_do_not_count_are_part_of_names() -> None:
    cells = ["1. FC K\u00f6ln", "2. Liga", "1. Bundesliga"]
    assert read(cells) == [(cell,) for cell in cells]


def test_a_separator_that_is_named_is_used() -> None:
    assert read(["a-b", "c"], "-") == [("a", "b"), ("c",)]
    assert read(["a, b", "c"], "none") == [("a, b",), ("c",)]


@pytest.mark.parametrize(
    "cell", ["['Comedy'", "['a', ['b'", "[__import__('os').getpid()]", "['a' + 'b']", "(lambda: 1)", "['a']; x"]
)
def test_a_broken_list_is_named(cell: str) -> None:
    with pytest.raises(InputError) as error:
        read(["['Comedy']", "['Drama']", cell])
    assert str(error.value) == f"t.csv, row 2: {cell!r} is not a list of names; it looks like ['Comedy', 'Drama']"


def test_hash_tags_and_entities() -> None:
    cells = ["#drama#war", "#war", "#drama", "#war#comedy", "#comedy"]
    assert read(cells) == [("drama", "war"), ("war",), ("drama",), ("war", "comedy"), ("comedy",)]
    assert read(["Action &amp; Adventure, Drama", "Drama", "War"]) == [("Action & Adventure", "Drama"), ("Drama",), ("War",)]


@pytest.mark.parametrize("cells", [["Drama:0.8|War:0.3", "War:0.9"], ["Drama (51%), War (3%)", "War (100 %)"]])
def test_names_with_values_are_refused(cells: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"t.csv, row 0: names have values, as '(Drama:0.8|Drama \(51%\))'; write the names that are right"
    ):
        read(cells)
