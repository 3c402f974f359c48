"""Fine-tuning a sentence model on what posters say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from poster_genres import scores, sentences
from poster_genres.explanations import logits_by_object
from poster_genres.fusion import equal_weights, fit_fusion, fit_stack
from poster_genres.mini_lm import MAX_TOKENS, mini_lm
from poster_genres.model import Model, load_model, predict_logits, save_model
from poster_genres.network import find_architecture
from poster_genres.objects import Detection, PosterDetections
from poster_genres.parameters import TrainParameters, read_parameters
from poster_genres.text_network import (
    BATCH_SIZE,
    TextNetwork,
    batches_of_like_length,
    embed_batch,
    embed_posters,
    fine_tune,
    lines_of,
)
from poster_genres.words import WORDS, fit_meaning, fit_words
from stages.train import prepare_training
from tests.conftest import set_parameters, with_sentences
from tests.test_fusion import world

CPU = torch.device("cpu")
# Two genres, of which the words alone, without their order, do not tell one from the other.
SAID = [["the hunter fears the beast", "the beast fears the hunter"], ["a killer loves a nurse", "a nurse loves a killer"]]


def lettering(*lines: str) -> list[Detection]:
    return [Detection("lettering", 0.9, 0.1, 0.1 * i, 0.8, 0.1, line) for i, line in enumerate(lines)]


def posters(number: int, seed: int, silent: int = 0) -> tuple[list[PosterDetections], np.ndarray]:
    """Posters with one of SAID beside a random year, and as many without text, float32 labels of one genre each."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, number)
    objects = [lettering(SAID[random.integers(2)][genre], str(random.integers(1950, 2020))) for genre in truth]
    labels = np.eye(2, dtype=np.float32)[np.concatenate([truth, random.integers(0, 2, silent)])]
    return with_sentences([*objects, *[[] for _ in range(silent)]]), labels


@pytest.fixture(scope="module")
def tuned() -> tuple[TextNetwork, np.ndarray, list[PosterDetections], np.ndarray]:
    """A text network, its logits for its training posters, and these with their labels."""
    contents, labels = posters(96, seed=0, silent=8)
    return *fine_tune(contents, labels, 1e-4, 0, CPU), contents, labels


def test_it_learns_what_its_start_cannot_tell(tuned: Any) -> None:
    network, _, of_train, train_labels = tuned
    contents, labels = posters(60, seed=1)
    encoder = mini_lm().encoder
    start = embed_posters(encoder, contents) @ fit_meaning(embed_posters(encoder, of_train), train_labels)
    before, after = (scores.binary_cross_entropy(labels, expit(logits)) for logits in (start, network.logits(contents)))
    assert before > 0.4
    assert after < before - 0.1


def test_its_logits_are_evidence_as_those_of_other_parts(tuned: Any) -> None:
    network, of_train, contents, _ = tuned
    np.testing.assert_allclose(network.logits(contents), of_train, atol=1e-5)
    assert not of_train[96:].any()
    np.testing.assert_allclose(of_train[:96].mean(axis=0), 0, atol=1e-5)
    # Alone or among longer texts, a text means the same.
    alone = np.concatenate([network.logits([content]) for content in contents[:5]])
    np.testing.assert_allclose(alone, of_train[:5], atol=1e-4)
    assert network.logits([]).shape == (0, 2)


def test_the_same_seed_gives_the_same_network_whatever_else_is_random(tuned: Any) -> None:
    network, _, contents, labels = tuned
    torch.manual_seed(5)
    state = torch.get_rng_state()
    sentences.LOADED.clear()
    again, _ = fine_tune(contents, labels, 1e-4, 0, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(again.logits(contents), network.logits(contents))
    other, _ = fine_tune(contents, labels, 1e-4, 1, CPU)
    assert np.abs(other.logits(contents) - network.logits(contents)).max() > 1e-3


def test_its_file_holds_what_fine_tuning_changed(tuned: Any, tmp_path: Path) -> None:
    network, _, contents, labels = tuned
    words = fit_words(contents, labels)
    assert words is not None
    networks = [find_architecture("residual").build(2, 40, 32).eval()]
    model = Model("two_stream/residual", ["A", "B"], 40, 32, [120.0] * 3, [60.0] * 3, networks, [0.5] * 2)
    model.words, model.classes = words, ["lettering"]
    parts = ["networks", *WORDS]
    model.fusion = equal_weights(parts, 2)
    save_model(model, tmp_path / "without.pt")
    model.text, model.fusion = network, equal_weights([*parts, "text"], 2)
    save_model(model, tmp_path / "with.pt")
    sizes = [(tmp_path / name).stat().st_size for name in ("without.pt", "with.pt")]
    assert sizes[1] - sizes[0] < 11_000_000
    images = np.random.default_rng(0).integers(0, 256, (len(contents), 40, 32, 3), dtype=np.uint8)
    expected = predict_logits(model, images, CPU, detected=contents)
    loaded = load_model(tmp_path / "with.pt", CPU)
    assert np.array_equal(predict_logits(loaded, images, CPU, detected=contents), expected)
    assert load_model(tmp_path / "without.pt", CPU).text is None
    # What each line adds is what all of them add.
    two = with_sentences([lettering("the beast fears", "the hunter")])
    alone = with_sentences([[]])
    added = predict_logits(model, images[:1], CPU, detected=two) - predict_logits(model, images[:1], CPU, detected=alone)
    offsets = sum(
        offset @ model.fusion.matrix(part)
        for part, offset in (
            *zip(WORDS, (words.offset, words.sentence_offset, words.title_offset), strict=True),
            ("text", network.offset),
        )
    )
    np.testing.assert_allclose(logits_by_object(model, two[0]).sum(axis=0) - offsets, added[0], atol=1e-5)


@pytest.mark.parametrize("wrong", ["a matrix is missing", "a shape", "a scale", "genres"])
def test_parts_that_do_not_fit_are_refused(tuned: Any, wrong: str) -> None:
    state = tuned[0].state()
    name = "layers.0.linear1.weight"
    if wrong == "a matrix is missing":
        del state["changes"][name]
    elif wrong == "a shape":
        state["changes"]["layers.0.norm1.bias"] = torch.zeros(5)
    elif wrong == "a scale":
        state["changes"][name][1] = torch.zeros(5)
    else:
        state["offset"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"^its text network's parts do not fit each other$"):
        TextNetwork.load(state)


def test_a_batch_embeds_as_the_model_does() -> None:
    model = mini_lm()
    texts = ["the night", "she came back for the last of them, and nobody knew", "2 GUNS"]
    with torch.inference_mode():
        found = embed_batch(model.encoder, [model.tokens(text) for text in texts], CPU)
    np.testing.assert_allclose(found, [model.embed(text) for text in texts], atol=1e-5)


def test_lines_and_parts_of_words_are_left_out_but_never_all() -> None:
    (content,) = with_sentences([lettering("one two three four", "five six", "seven")])
    lines, random = lines_of(content), np.random.default_rng(0)
    whole = mini_lm().tokens("one two three four five six seven")
    assert [lines.first, *np.concatenate(lines.tokens), lines.last] == whole
    samples = [lines.sample(random) for _ in range(4000)]
    assert {(sample[0], sample[-1]) for sample in samples} == {(whole[0], whole[-1])}
    kept = np.array([[token in sample for token in whole[1:-1]] for sample in samples])
    # All lines come back where none is left; a part of a word is left in .85 of the lines that are.
    of_lines = 0.6 + 0.4**3
    np.testing.assert_allclose(kept.mean(axis=0), 0.85 * of_lines, atol=0.03)
    long = lines_of(with_sentences([lettering(*["the night"] * 300)])[0])
    assert len(long.sample(random)) == MAX_TOKENS


def test_batches_hold_texts_of_like_length_each_once() -> None:
    random = np.random.default_rng(0)
    texts = [[0] * length for length in random.integers(2, 200, 330)]
    batches = batches_of_like_length(texts, random)
    rows = np.concatenate(batches)
    assert {len(batch) for batch in batches} == {BATCH_SIZE}
    assert len(set(rows.tolist())) == len(rows) == 320
    assert all(np.ptp([len(texts[row]) for row in batch]) < 40 for batch in batches)
    firsts = [len(texts[batch[0]]) for batch in batches]
    assert firsts != sorted(firsts)
    assert [len(batch) for batch in batches_of_like_length(texts[:5], random)] == [5]


def test_a_fusion_takes_what_is_better_and_leaves_what_says_nothing() -> None:
    labels, evidence = world(4000, 8)
    random = np.random.default_rng(9)
    noisy = evidence["letters"] + random.normal(0, 1.5, labels.shape).astype(np.float32)
    parts = {"probe": evidence["networks"], "meaning": noisy}
    stack = fit_stack({part: values[:2000] for part, values in parts.items()}, labels[:2000])
    held, truth = {part: values[2000:] for part, values in parts.items()}, labels[2000:]
    better = held | {"text": evidence["letters"][2000:]}
    fitted = fit_fusion(stack, better, truth)
    assert fitted.parts == ["probe", "meaning", "text"]
    assert fitted.weight("text") > 0.4
    assert fitted.weight("meaning") < 0.3 * stack.weight("meaning")
    before, after = (scores.binary_cross_entropy(truth, expit(logits)) for logits in (stack.logits(held), fitted.logits(better)))
    assert after < before - 0.01
    nothing = held | {"text": random.normal(0, 1, truth.shape).astype(np.float32)}
    assert fit_fusion(stack, nothing, truth).weight("text") < 0.05
    np.testing.assert_array_equal(stack.matrices, fit_fusion(stack, held, truth).matrices)


def test_training_has_it_where_posters_are_enough_and_after_an_interruption(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_parameters(cached, architecture="two_stream/residual", epochs=1)
    monkeypatch.chdir(cached)
    monkeypatch.setattr("stages.train.read_detections", lambda folder, ids: said_of(ids))
    parameters = read_parameters().used_by(TrainParameters)
    few = prepare_training(parameters, CPU)
    few.fine_tune_text(0)
    assert few.model.text is None

    monkeypatch.setattr("poster_genres.training.STACKED", 20)
    whole = prepare_training(parameters, CPU)
    whole.fine_tune_text(0)
    assert whole.model.text is not None
    assert whole.evidence["text"].shape == whole.evidence["meaning"].shape
    # Its targets and the stack are out of fold: without it.
    assert whole.stack is not None
    assert set(whole.train_evidence) == set(WORDS) == set(whole.stack.parts)
    resumed = prepare_training(parameters, CPU)
    resumed.load(whole.state())
    np.testing.assert_array_equal(resumed.evidence["text"], whole.evidence["text"])
    np.testing.assert_array_equal(resumed.text_of_train["text"], whole.text_of_train["text"])
    whole.run_epoch()
    assert whole.history[-1]["validation_loss"] > 0
    assert whole.fusion(whole.best_evidence()).parts == ["networks", *WORDS, "text"]
    for off in ({"text_learning_rate": 0.0}, {"epochs": 0, "architecture": "two_stream/efficientnet_lite0"}):
        set_parameters(cached, **off)
        without = prepare_training(read_parameters().used_by(TrainParameters), CPU)
        without.fine_tune_text(0)
        assert without.model.text is None


def said_of(ids: list[str]) -> Any:
    """Detections of one of SAID on each poster."""
    from poster_genres.objects import DatasetDetections

    contents, _ = posters(len(ids), seed=0)
    return DatasetDetections(dict(zip(ids, contents, strict=True)), {"lettering": "1"}, ["lettering"])
