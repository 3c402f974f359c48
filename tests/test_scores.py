"""The scores, against values worked out by hand and by their definitions."""

import warnings
from math import comb

import numpy as np
import pytest
from scipy.special import expit, logit

from poster_genres import evaluation, scores
from poster_genres.objects import Detection, PosterDetections
from poster_genres.report import LOW_IS_GOOD

Z = 1.959964  # of a 95 % interval


@pytest.fixture
def labels() -> np.ndarray:
    """200 posters; 4 genres with 100, 40, 12 and 5 positives."""
    random = np.random.default_rng(0)
    columns = [random.permutation(np.arange(200) < number) for number in (100, 40, 12, 5)]
    return np.stack(columns, axis=1).astype(np.float32)


def average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean of the precision at each positive, in order of falling probability; no ties."""
    hits = truth[np.argsort(-probabilities)]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits > 0].mean())


def test_macro_scores_are_over_genres_with_ten_positives(labels: np.ndarray) -> None:
    probabilities = np.random.default_rng(1).random(labels.shape).astype(np.float32)
    assert scores.scored_genres(labels).tolist() == [0, 1, 2]
    expected = np.mean([average_precision(labels[:, i], probabilities[:, i]) for i in range(3)])
    assert scores.macro_average_precision(labels, probabilities, np.arange(3)) == pytest.approx(expected)
    assert scores.micro_average_precision(labels, probabilities) == pytest.approx(
        average_precision(labels.ravel(), probabilities.ravel())
    )


def test_few_posters_fall_back_to_genres_with_any_positive(labels: np.ndarray) -> None:
    few = labels[:8]
    assert scores.scored_genres(few).tolist() == np.flatnonzero((few.sum(axis=0) > 0) & (few.sum(axis=0) < 8)).tolist()
    nothing = np.zeros((8, 4), np.float32)
    none = scores.scored_genres(nothing)
    assert none.size == 0
    assert scores.macro_average_precision(nothing, nothing, none) == 0.0
    with warnings.catch_warnings(action="error"):
        of_nothing = evaluation.score(nothing, nothing + 0.1, 0.5, np.full(4, 0.5), none)
    # A mean over no genre is not 0.
    assert {name for name, value in of_nothing.items() if np.isnan(value)} == {name for name in of_nothing if "macro" in name}


def test_macro_scores_are_over_the_same_genres_in_all_splits(labels: np.ndarray) -> None:
    assert scores.scored_genres(labels, labels[:, ::-1]).tolist() == [1, 2]
    assert scores.scored_genres(labels, np.zeros((0, 4), np.float32)).tolist() == [0, 1, 2]
    every = labels.copy()
    every[:, 1] = 1
    assert scores.scored_genres(labels, every).tolist() == [0, 2]
    # Fewer than two genres have ten positives in both: those with any.
    assert scores.scored_genres(labels, np.eye(4, dtype=np.float32)[:, [0, 0, 3, 3]]).tolist() == [0, 1, 2, 3]
    one = labels[:, [0, 3]]
    assert scores.scored_genres(one).tolist() == [0, 1]
    assert scores.scored_genres(labels, np.eye(4, dtype=np.float32)).tolist() == [0, 1, 2, 3]


def test_perfect_and_prior_predictions(labels: np.ndarray) -> None:
    threshold, thresholds = scores.tune_thresholds(labels, labels)
    columns = np.arange(3)
    perfect = evaluation.score(labels, labels, threshold, thresholds, columns)
    for name, value in perfect.items():
        # A poster without any genre has no F1 and no top genre.
        if name not in ("samples_f1", "top_1_hit"):
            assert value == pytest.approx(0 if name in LOW_IS_GOOD else 1, abs=1e-6), name
    prior = np.tile(labels.mean(axis=0), (200, 1))
    of_prior = evaluation.score(labels, prior, *scores.tune_thresholds(labels, prior, shrinkage=0), columns)
    assert of_prior["macro_average_precision"] == pytest.approx((100 + 40 + 12) / 3 / 200)
    assert of_prior["macro_roc_auc"] == 0.5
    # Each genre's frequency is its share: it is perfectly calibrated.
    assert of_prior["macro_calibration_error"] == pytest.approx(0, abs=1e-7)
    shares = labels.mean(axis=0)
    entropy = -(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean()
    assert of_prior["binary_cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    # Tuned, the prior says yes to all: F1 of a share p is 2p / (1 + p).
    assert of_prior["macro_f1"] == pytest.approx(np.mean([2 * p / (1 + p) for p in shares[:3]]))


def test_one_genre_alone_is_scored_as_among_others(labels: np.ndarray) -> None:
    probabilities = np.random.default_rng(1).random(labels.shape)
    thresholds = (0.5, np.full(4, 0.5))
    alone = [evaluation.score(labels, probabilities, *thresholds, np.array([i])) for i in range(3)]
    together = evaluation.score(labels, probabilities, *thresholds, np.arange(3))
    for name in ("macro_average_precision", "macro_f1", "macro_roc_auc", "macro_calibration_error"):
        assert together[name] == pytest.approx(np.mean([one[name] for one in alone])), name
    intervals, _ = evaluation.bootstrap(labels, probabilities, *thresholds, np.array([1]), seed=0)
    low, high = intervals["macro_f1"]
    assert low < alone[1]["macro_f1"] < high


def test_the_best_threshold_is_the_best(labels: np.ndarray) -> None:
    random = np.random.default_rng(2)
    probabilities = np.clip(0.3 * labels + random.random(labels.shape) * 0.7, 0, 1)

    def f1(threshold: float) -> float:
        said = probabilities >= threshold
        return float(2 * (said * labels).sum() / (said.sum() + labels.sum()))

    best = scores.best_threshold(labels, probabilities)
    assert f1(best) == pytest.approx(max(f1(t) for t in np.unique(probabilities)))
    threshold, thresholds = scores.tune_thresholds(labels, probabilities)
    assert threshold == best
    own_thresholds = [scores.best_threshold(labels[:, i], probabilities[:, i]) for i in range(4)]
    assert scores.tune_thresholds(labels, probabilities, shrinkage=0)[1].tolist() == own_thresholds
    expected = [scores.expected_threshold(probabilities[:, i]) for i in range(4)]
    for chosen, *others in zip(thresholds, own_thresholds, expected, strict=True):
        assert min(best, *others) <= chosen <= max(best, *others)
    assert scores.best_threshold(labels[:0, :1], probabilities[:0, :1]) == 1.0


def test_a_row_a_genre(labels: np.ndarray) -> None:
    probabilities = np.random.default_rng(1).random(labels.shape)
    labels[:, 3] = 0
    prior = np.tile(labels.mean(axis=0), (200, 1))
    table = evaluation.score_genres(["a", "b", "c", "d"], labels, probabilities, prior, np.full(4, 0.5), np.arange(3)).set_index(
        "genre"
    )
    assert table["positives"].tolist() == [100, 40, 12, 0]
    assert table["scored"].tolist() == [True, True, True, False]
    assert table.loc["b", "average_precision"] == pytest.approx(average_precision(labels[:, 1], probabilities[:, 1]))
    assert table.loc["b", "prior_average_precision"] == pytest.approx(0.2)
    said = probabilities[:, 1] >= 0.5
    assert table.loc["b", "precision"] == pytest.approx(labels[said, 1].mean())
    assert table.loc["b", "recall"] == pytest.approx(said[labels[:, 1] > 0].mean())
    # What is not defined is not 0: recall where there is nothing to recall, and the precision of what is never said.
    assert table.loc["d", ["average_precision", "recall", "f1"]].isna().all()
    assert table.loc["d", "precision"] == 0
    silent = evaluation.score_genres(["a", "b", "c", "d"], labels, probabilities, prior, np.full(4, 2.0), np.arange(3))
    assert silent["precision"].isna().all()
    assert silent["recall"].tolist()[:3] == silent["f1"].tolist()[:3] == [0, 0, 0]


def test_the_bootstrap_agrees_with_scikit_learn(labels: np.ndarray) -> None:
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(5)
    # Rounded, so that there are ties.
    probabilities = np.round(random.random(200), 2)
    weights = random.multinomial(200, np.full(200, 1 / 200), size=7)
    found = evaluation.resampled_average_precision(labels[:, 1], probabilities, weights)
    expected = [average_precision_score(labels[:, 1], probabilities, sample_weight=weight) for weight in weights]
    assert found == pytest.approx(expected)
    nothing = evaluation.resampled_average_precision(np.zeros(200), probabilities, weights)
    assert np.isnan(nothing).all()


def test_intervals_hold_the_score_and_shrink_with_more_posters(labels: np.ndarray) -> None:
    probabilities = np.clip(labels * 0.3 + np.random.default_rng(3).random(labels.shape) * 0.7, 0, 1)
    threshold, thresholds = scores.tune_thresholds(labels, probabilities)
    arguments = (threshold, thresholds, np.arange(3))
    value = evaluation.score(labels, probabilities, *arguments)
    few, of_genres = evaluation.bootstrap(labels, probabilities, *arguments, seed=0)
    more, _ = evaluation.bootstrap(np.tile(labels, (8, 1)), np.tile(probabilities, (8, 1)), *arguments, seed=0)
    for name, (low, high) in few.items():
        assert low < value[name] < high, name
        # Eight times as many posters: intervals shrink by the square root of eight.
        assert (more[name][1] - more[name][0]) / (high - low) == pytest.approx(8**-0.5, rel=0.5), name
    assert of_genres.shape == (4, 2)
    assert few == evaluation.bootstrap(labels, probabilities, *arguments, seed=0)[0]


@pytest.mark.slow
def test_intervals_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BOOTSTRAPS", 200)
    random = np.random.default_rng(7)
    shares = np.array([0.5, 0.4, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.04, 0.03, 0.03, 0.03])

    def draw(posters: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (random.random((posters, len(shares))) < shares).astype(float)
        return labels, 1 / (1 + np.exp(-random.normal(size=labels.shape) - 0.3 * labels))

    columns = np.arange(len(shares))
    truth = scores.macro_average_precision(*draw(100_000), columns), scores.micro_average_precision(*draw(100_000))
    held = []
    for _ in range(50):
        found, _ = evaluation.bootstrap(*draw(600), 0.5, np.full(len(shares), 0.5), columns, seed=0)
        intervals = found["macro_average_precision"], found["micro_average_precision"]
        held.append([low <= value <= high for (low, high), value in zip(intervals, truth, strict=True)])
    # Of 95 % intervals; plain percentiles hold the macro average precision in 10 of 50 such draws.
    assert min(np.mean(held, axis=0)) >= 0.86


def test_there_is_no_interval_where_resamples_lack_a_genre() -> None:
    random = np.random.default_rng(11)
    # Twenty genres on two or three posters each: hardly a resample has all of them.
    labels = np.stack([random.permutation(np.arange(60) < 2 + i % 2) for i in range(20)], axis=1).astype(np.float32)
    first, second = expit(random.normal(-2, 1, labels.shape)), expit(random.normal(-2, 1, labels.shape))
    columns = np.arange(20)
    with warnings.catch_warnings(action="error"):
        intervals, of_genres = evaluation.bootstrap(labels, first, 0.5, np.full(20, 0.5), columns, seed=0)
        differences = evaluation.paired_differences(labels, first, second, columns).set_index("score")
    assert {name for name, ends in intervals.items() if np.isnan(ends).all()} == {"macro_average_precision", "macro_f1"}
    assert not np.isnan([intervals["micro_average_precision"], intervals["micro_f1"]]).any()
    # A genre that a thirteenth of the resamples lack has one, that which an eighth lack has none.
    assert np.isnan(of_genres[:2]).tolist() == [[True, True], [False, False]]
    without = differences[["error", "low", "high"]].isna()
    assert without.loc["macro_average_precision"].all()
    assert not without.drop("macro_average_precision").any(axis=None)
    assert differences["difference"].notna().all()


def test_a_rare_genres_threshold_is_drawn_to_what_is_expected_of_it() -> None:
    random = np.random.default_rng(4)
    labels = (random.random((400, 2)) < (0.5, 0.01)).astype(np.float32)
    probabilities = np.clip(random.random((400, 2)) * (0.6, 0.05) + labels * (0.4, 0.02), 0, 1)
    threshold, thresholds = scores.tune_thresholds(labels, probabilities)
    for i, chosen in enumerate(thresholds):
        own = logit(scores.best_threshold(labels[:, i], probabilities[:, i]))
        middle = (logit(threshold) + logit(scores.expected_threshold(probabilities[:, i]))) / 2
        positives = labels[:, i].sum()
        assert logit(chosen) == pytest.approx(own + (middle - own) * 100 / (positives + 100))


def test_the_expected_threshold_is_the_best_of_many_posters() -> None:
    random = np.random.default_rng(6)
    for common in (-3.0, 0.0):
        probabilities = expit(random.normal(common, 1.0, 100_000))
        labels = (random.random(100_000) < probabilities).astype(np.float32)
        found = scores.expected_threshold(probabilities)
        assert found == pytest.approx(scores.best_threshold(labels, probabilities), rel=0.1)
        # Half of the highest F1 (Lipton et al. 2014, arXiv:1402.1892).
        said = probabilities >= found
        assert found == pytest.approx(float((said * labels).sum() / (said.sum() + labels.sum())), rel=0.02)


def test_rare_genres_are_scored_too_high_and_their_intervals_too_narrow() -> None:
    # What docs/evaluation.md says of average precision on few positives: 18 in 600 posters.
    random = np.random.default_rng(8)

    def draw(posters: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (random.random((posters, 1)) < 0.03).astype(float)
        return labels, 1 / (1 + np.exp(-random.normal(size=labels.shape) - labels))

    truth = scores.micro_average_precision(*draw(300_000))
    found, held = [], []
    for _ in range(200):
        labels, probabilities = draw(600)
        weights = np.concatenate([np.ones((1, 600), int), random.multinomial(600, np.full(600, 1 / 600), size=200)])
        values = evaluation.resampled_average_precision(labels[:, 0], probabilities[:, 0], weights)
        low, high = evaluation._basic_interval(values)
        found.append(values[0])
        held.append(low <= truth <= high)
    assert 0.02 < np.mean(found) - truth < 0.05
    assert 0.75 < np.mean(held) < 0.95


def test_paired_differences() -> None:
    random = np.random.default_rng(9)
    labels = (random.random((300, 3)) < (0.5, 0.3, 0.2)).astype(np.float32)
    logits = random.normal(size=labels.shape) + labels - 1
    weak, strong = (1 / (1 + np.exp(-(logits + gain * labels))) for gain in (0, 0.5))
    columns = np.arange(3)
    table = evaluation.paired_differences(labels, weak, strong, columns).set_index("score")
    threshold = (0.5, np.full(3, 0.5), columns)
    for name, row in table.iterrows():
        for scored, probabilities in (("first", weak), ("second", strong)):
            assert row[scored] == pytest.approx(evaluation.score(labels, probabilities, *threshold)[str(name)])
        assert row["low"] < row["difference"] < row["high"]
        assert row["difference"] == pytest.approx(row["second"] - row["first"])
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * row["error"], rel=0.2)
    assert table.loc["macro_average_precision", "low"] > 0
    assert table.loc["binary_cross_entropy", "high"] < 0
    same = evaluation.paired_differences(labels, weak, weak, columns)
    assert not same[["difference", "error", "low", "high"]].to_numpy().any()
    # Of two models that are equally good, the interval of the difference holds 0.
    noisy = [1 / (1 + np.exp(-(logits + random.normal(0, 0.3, labels.shape)))) for _ in range(2)]
    row = evaluation.paired_differences(labels, noisy[0], noisy[1], columns).iloc[0]
    assert row["low"] < 0 < row["high"]


def test_what_calibration_error_chance_gives() -> None:
    random = np.random.default_rng(10)
    probabilities = 1 / (1 + np.exp(-random.normal(-2, 1, (600, 4))))
    errors = []
    for _ in range(30):
        labels = (random.random(probabilities.shape) < probabilities).astype(np.float32)
        errors.append(evaluation.macro_calibration_error(labels, probabilities, np.arange(4)))
    assert evaluation.calibration_error_by_chance(probabilities, np.arange(4)) == pytest.approx(np.mean(errors), rel=0.1)
    assert np.mean(errors) > 0.01


def test_calibration_error() -> None:
    random = np.random.default_rng(6)
    truth = random.random((4000, 3))
    labels = (random.random(truth.shape) < truth).astype(np.float32)
    logits = np.log(truth / (1 - truth))
    assert evaluation.calibration_error(labels, truth) < 0.02
    sure = 1 / (1 + np.exp(-3 * logits))
    assert evaluation.calibration_error(labels, sure) > 0.1
    bins = evaluation.reliability(labels, truth)
    assert bins["values"].sum() == labels.size
    assert (bins["probability"].diff().dropna() > 0).all()


def lettering(text: str) -> PosterDetections:
    return PosterDetections([Detection("lettering", 0.9, 0.1, 0.1, 0.8, 0.08, text)], *np.zeros((2, 0), np.float32))


def test_which_genres_are_taken_for_which() -> None:
    # Of 100 posters without B, 20 have A: on 10 it is missed, and 8 of these get B; so do 8 of the other 90.
    labels, chosen = np.zeros((120, 3)), np.zeros((120, 3), bool)
    labels[:20, 0], labels[100:, 1] = 1, 1
    chosen[10:20, 0], chosen[:8, 1], chosen[20:28, 1], chosen[100:, 1] = True, True, True, True
    (row,) = evaluation.confusions(["A", "B", "C"], labels, chosen).to_dict("records")
    p = sum(comb(16, k) * comb(84, 10 - k) for k in range(8, 11)) / comb(100, 10)
    centre, reach = (0.8 + Z**2 / 20) / (1 + Z**2 / 10), Z * (0.16 / 10 + Z**2 / 400) ** 0.5 / (1 + Z**2 / 10)
    assert row == {
        "missed": "A", "predicted": "B", "posters": 8, "of": 10, "share": 0.8, "elsewhere": pytest.approx(8 / 90),
        # The smallest of the nine: Benjamini and Hochberg multiply it by nine.
        "p": pytest.approx(9 * p), "low": pytest.approx(centre - reach), "high": pytest.approx(centre + reach),
    }  # fmt: skip
    assert evaluation.confusions(["A", "B", "C"], labels, labels > 0).empty


def test_chance_confuses_no_genres_and_indicates_none() -> None:
    random = np.random.default_rng(0)
    shares = np.linspace(0.05, 0.5, 20)
    names = [f"G{i}" for i in range(20)]
    found = 0
    for _ in range(20):
        labels, said = (random.random((500, 20)) < shares for _ in range(2))
        texts = [" ".join(random.choice(["night", "love", "war", "blood", "house"], 2)) for _ in labels]
        contents = [lettering(text) for text in texts]
        found += len(evaluation.confusions(names, labels.astype(float), said)) > 0
        found += len(evaluation.indicative_words(contents, labels.astype(float), names)) > 0
    # Where nothing is true, one table in twenty may hold something; without the correction, all would.
    assert found <= 5


def test_words_that_are_on_more_posters_of_a_genre() -> None:
    random = np.random.default_rng(0)
    said = {"Horror": "BLOOD", "Comedy": "FUNNY"}
    genre = np.array(["Horror", "Comedy"] * 20)
    contents = [lettering(f"MOVIE {random.choice(['RIVER', 'NIGHT'])} {said[one]}") for one in genre]
    labels = np.stack([genre == "Comedy", genre == "Horror", genre == "News"], axis=1).astype(float)
    table = evaluation.indicative_words(contents, labels, ["Comedy", "Horror", "News"])
    assert set(zip(table["word"], table["genre"], strict=True)) == {("blood", "Horror"), ("funny", "Comedy")}
    row = table[table["word"] == "blood"].iloc[0]
    assert row[["posters", "of", "elsewhere"]].tolist() == [20, 20, 0]
    assert evaluation.indicative_words([], np.zeros((0, 3)), ["Comedy", "Horror", "News"]).empty


def test_slices_leave_out_what_is_not_known(labels: np.ndarray) -> None:
    labels = labels[:, :3]
    names = np.array(["1990s"] * 120 + ["2000s"] * 60 + [""] * 20)
    prior = np.tile(labels.mean(axis=0), (200, 1))
    table = evaluation.score_slices(names, labels, labels, prior, seed=0)
    assert table["name"].tolist() == ["1990s", "2000s"]
    assert table["posters"].tolist() == [120, 60]
    assert (table["macro_average_precision"] == 1).all()
    assert (table["prior_macro_average_precision"] < 0.6).all()
    noisy = np.clip(labels * 0.3 + np.random.default_rng(3).random(labels.shape) * 0.7, 0, 1)
    table = evaluation.score_slices(names, labels, noisy, prior, seed=0)
    for name in ("macro_average_precision", "micro_average_precision"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[name] < table[f"{name}_high"]).all()
    assert evaluation.score_slices(np.full(200, ""), labels, labels, prior, seed=0).empty
    # A decade of one poster, and one in which all posters have all genres, so that none can be scored.
    with warnings.catch_warnings(action="error"):
        table = evaluation.score_slices(
            np.array(["1920s"] + ["1930s"] * 3), np.ones((4, labels.shape[1])), noisy[:4], prior[:4], seed=0
        )
    assert table["genres"].tolist() == [0, 0]
    assert table[[column for column in table if "macro" in column]].isna().all(axis=None)


def test_a_genre_on_all_posters_confuses_nothing() -> None:
    labels, chosen = np.array([[1, 1], [0, 1], [1, 1]]), np.array([[0, 1], [1, 1], [0, 1]], bool)
    assert evaluation.confusions(["A", "B"], labels, chosen).empty


def test_it_is_said_over_which_genres_macro_scores_are() -> None:
    genres = ["Comedy", "Drama", "News"]
    why = "on too few or on all of the validation or test posters"
    assert evaluation.describe_scored(genres, genres) == ""
    assert evaluation.describe_scored(genres[:2], genres) == f"macro scores are over 2 of 3 genres; not over News, which are {why}"
    assert evaluation.describe_scored(genres[:1], genres) == f"macro scores are over 1 of 3 genres, Comedy; the others are {why}"
    assert (
        evaluation.describe_scored([], genres)
        == f"macro scores are over 0 of 3 genres; not over Comedy, Drama, News, which are {why}"
    )
