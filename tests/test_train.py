"""Training: reproducible to the byte, honest about its splits, and whole or absent at its end."""

import errno
import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from poster_genres import processes, training
from poster_genres.architectures import needs_objects
from poster_genres.augmentation import augment, crop_windows, random_transforms
from poster_genres.inputs import Inputs
from poster_genres.model import Model, image_evidence, load_model, predict_logits
from poster_genres.movies import genres_of, labels_of
from poster_genres.network import FrozenMaps, find_architecture
from poster_genres.parameters import TrainParameters, read_parameters, read_recipes
from poster_genres.processes import QuickDropout
from poster_genres.scores import binary_cross_entropy
from poster_genres.tensor_cache import read_cache
from poster_genres.training import build_optimizer, shuffled_batches
from stages.train import new_model, prepare_training
from tests.conftest import ROOT, environment, run, set_parameters, stage, wait_until
from tests.test_detect import plant
from tests.test_tracking import runs_of

CPU = torch.device("cpu")


def trained(project: Path, **parameters: object) -> bytes:
    set_parameters(project, **parameters)
    stage("train", cwd=project)
    return (project / "models" / "model.pt").read_bytes()


@pytest.mark.parametrize("architecture", ["tutorial", pytest.param("residual", marks=pytest.mark.long)])
def test_one_seed_gives_the_same_bytes(cached: Path, architecture: str) -> None:
    first = trained(cached, architecture=architecture, epochs=2)
    assert trained(cached) == first
    assert trained(cached, seed=1) != first


def test_two_threads_give_the_same_bytes_each_time_and_are_said(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert trained(cached) == trained(cached)
    run = json.loads((cached / "models" / "run.json").read_text(encoding="utf-8"))
    assert run["tags"]["threads"] == "2"
    assert {one.data.tags["threads"] for one in runs_of(cached)} == {"2"}


def test_test_posters_are_not_looked_at(cached: Path) -> None:
    before = trained(cached)
    posters, movies = read_cache(cached / "data" / "cache")
    changed = posters[:]
    changed[(movies["split"] == "test").to_numpy()] = 77
    np.save(cached / "data" / "cache" / "posters-000.npy", changed)
    assert trained(cached) == before


def test_it_learns_and_keeps_the_best_epoch(cached: Path) -> None:
    output = trained(cached, architecture="residual", epochs=12)
    assert output
    history = pd.read_csv(cached / "metrics" / "history.csv")
    assert history["epoch"].tolist() == list(range(1, 13))
    columns = ["epoch"]
    for split in ("train", "validation"):
        columns += [f"{split}_{name}" for name in ("loss", "accuracy", "macro_average_precision", "micro_average_precision")]
    assert history.columns.tolist() == [*columns, "learning_rate", "seconds", "posters_per_second"]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    best = history.loc[history["validation_loss"].idxmin(), "validation_macro_average_precision"]
    # Dark and bright posters are easily told apart; Drama is a coin's throw.
    assert best > 0.75
    stage("evaluate", cwd=cached)
    scores = pd.read_csv(cached / "metrics" / "scores.csv").set_index(["split", "score"])
    assert scores.loc[("validation", "macro_average_precision"), "model"] == pytest.approx(best, abs=1e-5)
    assert scores.loc[("test", "macro_average_precision"), "model"] > scores.loc[("test", "macro_average_precision"), "prior"] + 0.1


def test_an_epoch_is_scored_on_some_training_posters_as_they_are(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cached)
    posters, movies = read_cache(Path("data/cache"))
    labels, splits = labels_of(movies), movies["split"].to_numpy(str)
    parameters = read_parameters().used_by(TrainParameters)
    model = new_model(parameters, genres_of(movies), posters.shape, labels[splits == "train"].mean(axis=0), CPU)
    monkeypatch.setattr(training, "SCORED", 20)
    learning = training.Training(model, posters, labels, splits, parameters.recipe, CPU)
    row = learning.run_epoch()
    rows = learning.train_rows[learning.scored]
    assert len(set(rows)) == 20 < len(learning.train_rows)
    # What the model says of these posters, given alone.
    model.fusion = learning.fusion(learning.best_evidence())
    logits = predict_logits(model, posters, CPU, rows)
    assert row["train_loss"] == pytest.approx(binary_cross_entropy(labels[rows], expit(logits)), abs=1e-4)


def test_patience_stops_early(cached: Path) -> None:
    set_parameters(cached, architecture="tutorial", epochs=40, patience=2, learning_rate=1e-12)
    assert "no better validation score for 2 epochs; stopping" in stage("train", cwd=cached).stdout
    assert len(pd.read_csv(cached / "metrics" / "history.csv")) < 40


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_interrupted_training_leaves_no_model_behind(cached: Path, kill: signal.Signals) -> None:
    set_parameters(cached, epochs=1000)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"], cwd=cached, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history = cached / "metrics" / "history.csv"
    wait_until(history.is_file)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if kill != signal.SIGKILL else -signal.SIGKILL)
    assert "Traceback" not in errors
    assert sorted(path.name for path in (cached / "models").iterdir()) == [".gitignore", "README.md", "real_posters.pt"]
    assert len(pd.read_csv(history)) >= 1


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        pytest.param("two_stream/residual", {"ensemble_size": 2}, marks=pytest.mark.long),
        ("efficientnet_lite0", {"linear_probe": True}),
    ],
)
def test_a_killed_training_goes_on_and_ends_in_the_same_model(cached: Path, architecture: str, recipe: dict[str, object]) -> None:
    if needs_objects(architecture):
        plant(cached, written=True)
        set_parameters(cached, architecture=architecture)
        stage("detect", cwd=cached)
    without_break = trained(cached, architecture=architecture, epochs=6, **recipe)
    history = cached / "metrics" / "history.csv"
    whole = pd.read_csv(history)
    for path in (history, cached / "models" / "model.pt", cached / "mlflow.db"):
        path.unlink()

    command = [sys.executable, "-m", "stages.train"]
    process = subprocess.Popen(command, cwd=cached, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: history.is_file() and len(pd.read_csv(history)) >= 2)
    process.kill()
    process.wait()
    assert not (cached / "models" / "model.pt").exists()
    output = stage("train", cwd=cached).stdout
    assert "going on after epoch" in output
    assert (cached / "models" / "model.pt").read_bytes() == without_break
    timing = ["seconds", "posters_per_second"]
    pd.testing.assert_frame_equal(pd.read_csv(history).drop(columns=timing), whole.drop(columns=timing))
    # One training, one run, with the whole curve; and no checkpoint stays behind.
    (one,) = runs_of(cached)
    steps = [metric.step for metric in mlflow.MlflowClient().get_metric_history(one.info.run_id, "curves/train_loss")]
    assert sorted(steps) == whole["epoch"].tolist()
    assert max(steps) == 6
    assert one.info.status == "FINISHED"
    assert not list((cached / ".dvc" / "tmp" / "training").iterdir())


def test_the_probe_is_a_part_beside_the_networks(cached: Path) -> None:
    trained(cached, architecture="efficientnet_lite0", epochs=2, ensemble_size=2, frozen_blocks=3, learning_rate=1e-4)
    history = pd.read_csv(cached / "metrics" / "history.csv")
    best = history.loc[history["validation_loss"].idxmin()]
    model = load_model(cached / "models" / "model.pt", CPU)
    assert model.probe is not None
    assert len(model.networks) == (2 if best["epoch"] > 0 else 0)
    assert model.fusion is not None
    assert model.fusion.parts == ["networks", "probe"][0 if best["epoch"] > 0 else 1 :]
    # What they have in common is computed once, and gives the same logits.
    together = [*model.networks, model.probe]
    assert [network.has_frozen_blocks for network in together] == [len(together) > 1] * len(together)
    posters, _ = read_cache(cached / "data" / "cache")
    shared = image_evidence(model, posters, CPU)
    for network in together:
        network.freeze(0)
    for part, logits in image_evidence(model, posters, CPU).items():
        np.testing.assert_array_equal(shared[part], logits)
    stage("evaluate", cwd=cached)
    scores = pd.read_csv(cached / "metrics" / "scores.csv").set_index(["split", "score"])
    for name in ("macro_average_precision", "micro_average_precision"):
        assert scores.loc[("validation", name), "model"] == pytest.approx(best[f"validation_{name}"], abs=1e-5)


def test_fine_tuning_learns_from_the_other_parts_too(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_parameters(cached, architecture="efficientnet_lite0", frozen_blocks=3, epochs=1)
    monkeypatch.chdir(cached)
    parameters = read_parameters().used_by(TrainParameters)
    few = prepare_training(parameters, CPU)
    few.start_from_probe()
    np.testing.assert_array_equal(few.targets, few.labels)

    monkeypatch.setattr("poster_genres.training.STACKED", 20)
    whole = prepare_training(parameters, CPU)
    whole.start_from_probe()
    assert whole.stack is not None
    rows = whole.train_rows
    probabilities = expit(whole.stack.logits(whole.train_evidence))
    np.testing.assert_allclose(whole.targets[rows], (whole.labels[rows] + probabilities) / 2, atol=1e-6)
    others = np.setdiff1d(np.arange(len(whole.labels)), rows)
    np.testing.assert_array_equal(whole.targets[others], whole.labels[others])
    assert set(np.unique(whole.labels)) == {0, 1}
    # These are what the loss is of, and after an interruption too.
    losses = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses.append(targets.numpy())
        return binary_cross_entropy_with_logits(logits, targets)

    resumed = prepare_training(parameters, CPU)
    resumed.load(whole.state())
    np.testing.assert_array_equal(resumed.targets, whole.targets)
    monkeypatch.setattr("poster_genres.training.binary_cross_entropy_with_logits", loss)
    resumed._step(resumed.learners[0], rows[:8])
    np.testing.assert_array_equal(losses[0], whole.targets[rows[:8]])


@pytest.mark.parametrize(("architecture", "sizes"), [("efficientnet_lite0", [3, 3, 2]), ("residual", [8])])
def test_a_step_of_micro_batches_is_that_of_the_whole_batch(
    cached: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, sizes: list[int]
) -> None:
    set_parameters(cached, architecture=architecture, linear_probe=False, epochs=1)
    monkeypatch.chdir(cached)
    parameters = read_parameters().used_by(TrainParameters)
    given: list[int] = []
    steps = []
    for size in (100, 3):
        slices = partial(lambda size, rows, device: [slice(i, i + size) for i in range(0, rows, size)], size)
        monkeypatch.setattr(training, "micro_batches", slices)
        # bfloat16 rounds each sum on its way.
        for module in ("inputs", "training"):
            monkeypatch.setattr(f"poster_genres.{module}.autocast", lambda device: nullcontext())
        learning = prepare_training(parameters, CPU)
        (learner,) = learning.learners
        learner.network.train()
        for layer in learner.network.modules():
            if isinstance(layer, nn.Dropout):  # it draws other numbers for micro-batches
                layer.p = 0.0
        given.clear()
        learner.network.register_forward_pre_hook(lambda _, inputs: given.append(len(getattr(inputs[0], "maps", inputs[0]))))
        torch.manual_seed(1)
        learning._step(learner, learning.train_rows[:8])
        steps.append([parameter.grad for parameter in learner.network.parameters() if parameter.grad is not None])
    assert given == sizes
    for whole, accumulated in zip(*steps, strict=True):
        torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-5)


def test_a_training_that_diverges_is_said(cached: Path) -> None:
    set_parameters(cached, learning_rate=1e30, epochs=3)
    assert "learning_rate: training diverged" in stage("train", cwd=cached, fails=True).stderr
    assert not (cached / "models" / "model.pt").exists()


def test_the_model_file_is_all_that_is_needed(cached: Path) -> None:
    trained(cached, architecture="residual")
    model = load_model(cached / "models" / "model.pt", CPU)
    assert (model.architecture, model.height, model.width) == ("residual", 80, 80)
    assert model.genres == ["Comedy", "Drama", "Horror"]
    assert len(model.prior) == len(model.thresholds or []) == 3
    (cached / "params.yaml").unlink()
    poster = cached / "data" / "posters" / "m000.jpg"
    assert run(sys.executable, "-m", "stages.predict", poster, cwd=cached).stdout.count("\n") == 4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 100])
def test_one_cycle_of_any_length(steps: int) -> None:
    recipe = read_recipes()["residual"]
    optimizer, scheduler = build_optimizer(find_architecture("residual").build(2, 32, 32), recipe, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    assert max(rates) <= recipe.learning_rate * 1.0001
    if steps > 3:
        assert rates[0] < 0.1 * recipe.learning_rate
        assert rates[-1] < 0.1 * recipe.learning_rate
        assert max(rates) > 0.9 * recipe.learning_rate


def test_two_processes_train_as_one_does(cached: Path) -> None:
    plant(cached, written=True)
    set_parameters(cached, architecture="two_stream/residual", epochs=2, batch_size=15, learning_rate=0.0001)
    stage("detect", cwd=cached)
    tables = []
    for number in (1, 2):
        set_parameters(cached, processes=number)
        output = stage("train", cwd=cached).stdout
        assert output.count("kept epoch") == 1
        tables.append(pd.read_csv(cached / "metrics" / "history.csv"))
        assert len(runs_of(cached)) == number
    assert "2 x cpu" in output
    one, two = (table.filter(like="_").drop(columns=["learning_rate", "posters_per_second"]) for table in tables)
    # Sums are taken in another order, and rounded otherwise where the machine computes in bfloat16.
    losses = ["train_loss", "validation_loss"]
    assert np.abs(one / two - 1)[losses].max(axis=None) < 0.02, (one, two)
    assert np.abs(one - two).drop(columns=losses).max(axis=None) < 0.03, (one, two)


def test_more_processes_than_posters_in_a_batch_are_refused(cached: Path) -> None:
    set_parameters(cached, processes=3, batch_size=2)
    assert stage("train", cwd=cached, fails=True).stderr.splitlines()[-1] == (
        "error: params.yaml: processes: 3 processes, but a batch or a split has 2 posters; lower it"
    )


@pytest.mark.parametrize("shape", [(64, 6), (65, 6), (64, 6, 5, 4), (65, 6, 5, 4)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_dropout_in_several_processes_is_that_of_one(
    shape: tuple[int, ...], order: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_order(x: torch.Tensor) -> torch.Tensor:
        return x.contiguous(memory_format=order) if x.ndim == 4 else x

    x = in_order(torch.rand(shape) + 1)
    torch.manual_seed(0)
    whole, after = QuickDropout(0.3)(x), torch.rand(1)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes, "all_reduce", lambda tensor: torch.tensor(len(x)))
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        shard = in_order(processes.shard(x)).requires_grad_()
        dropped = QuickDropout(0.3)(shard)
        assert torch.equal(dropped, whole[rank::2])
        assert torch.equal(torch.rand(1), after)
        dropped.sum().backward()
        torch.testing.assert_close(shard.grad, (dropped > 0) / 0.7, rtol=1e-4, atol=0)
        assert torch.equal(QuickDropout(0.3).eval()(shard), shard)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_each_element_by_itself(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ones = torch.ones(64, 25, 40, 10, dtype=dtype).to(memory_format=torch.channels_last)
    dropped = QuickDropout(share)(ones)
    assert dropped.is_contiguous(memory_format=torch.channels_last)
    kept = (dropped != 0).double()
    torch.testing.assert_close(dropped[dropped != 0].unique(), torch.tensor([1 / (1 - share)], dtype=dtype), rtol=1e-3, atol=0)
    # Four standard errors; along each axis neighbours are independent, as are the four of one draw of bits.
    error = 4 * (share * (1 - share) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - share)) < error
    flat = kept.permute(0, 2, 3, 1).flatten()
    for distance in (1, 2, 3, 4, 25, 250, 10_000):
        both = (flat[distance:] * flat[:-distance]).mean()
        assert abs(both - (1 - share) ** 2) < 3 * error, distance
    assert not torch.equal(QuickDropout(share)(ones), dropped)
    torch.manual_seed(0)
    assert torch.equal(QuickDropout(share)(ones), dropped)
    for other in (0.0, 1.0):
        assert torch.equal(QuickDropout(other)(ones), nn.Dropout(other)(ones))


def test_an_interrupt_that_was_swallowed_is_raised_again() -> None:
    program = """if True:
        import os, signal
        from poster_genres import errors
        def main():
            errors.check_interrupt()
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                print("swallowed", flush=True)
            errors.check_interrupt()
            print("went on")
        errors.run(main)"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "swallowed\n")


def test_of_several_processes_one_says_what_is_wrong(cached: Path) -> None:
    set_parameters(cached, architecture="efficientnet_lite0", processes=2, epochs=1, learning_rate=1e30)
    errors = stage("train", cwd=cached, fails=True).stderr
    assert errors.count("training diverged") == 1
    assert "run_id" not in errors


def test_several_processes_are_interrupted_as_one_is(tmp_path: Path) -> None:
    lines = [
        "import contextlib, time",
        "with contextlib.suppress(KeyboardInterrupt):",
        " print('there', flush=True)",
        " time.sleep(600)",
    ]
    (tmp_path / "sleeper.py").write_text("\n".join(lines), encoding="utf-8")
    program = "from poster_genres import errors, processes; errors.run(lambda: processes.launch(2, 'sleeper'))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(2)] == ["there\n"] * 2
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=60)[1]
    assert (said, child.returncode) == ("interrupted: what was finished is kept, and nothing half-written\n", 130)


def test_each_poster_comes_once_an_epoch() -> None:
    rows = np.arange(10, 75)
    batches = list(shuffled_batches(rows, 16))
    assert [len(batch) for batch in batches] == [16] * 4  # 65 rows: the last one alone cannot be normalised
    seen = np.concatenate(batches)
    assert len(set(seen)) == 64
    assert set(seen) < set(rows)
    assert [len(batch) for batch in shuffled_batches(rows[:-1], 30)] == [30, 30, 4]


def test_frozen_blocks_maps_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    architecture = find_architecture("efficientnet_lite0")
    torch.manual_seed(0)
    network = architecture.build(2, 64, 48)
    posters = np.random.default_rng(0).integers(0, 256, (6, 64, 48, 3), np.uint8)
    preprocessing = architecture.preprocessing
    model = Model(
        "efficientnet_lite0", ["a", "b"], 64, 48, list(preprocessing.mean), list(preprocessing.std), [network], [0.5, 0.5]
    )
    rows = np.array([4, 1, 2])
    # Without frozen blocks, pixels.
    pixels = Inputs(model, posters, CPU, 0).views(rows)
    assert [type(view) for view in pixels] == [Tensor] * 2
    network.freeze(3)
    network.eval()
    inputs = Inputs(model, posters, CPU, 3)
    views = [frozen(view) for view in inputs.views(rows)]
    monkeypatch.setattr("poster_genres.inputs.autocast", lambda device: nullcontext())
    exact = Inputs(model, posters, CPU, 3)
    with torch.inference_mode():
        for of_pixels, of_maps in zip(pixels, exact.views(rows), strict=True):
            torch.testing.assert_close(network(of_maps), network(of_pixels))
        features = torch.stack([network.features(view) for view in pixels])
        for with_maps in (False, True):
            torch.testing.assert_close(Inputs(model, posters, CPU, 3).features(rows, with_maps), features)
    # A mirrored poster is the mirror image; what is left of the maps keeps their values.
    transforms = random_transforms(3, flip=True, crop=0.5, one_size=True)
    assert transforms is not None
    transforms[:, 0, 0] = transforms[:, 0, 0].abs() * torch.tensor([1, -1, 1])
    whole = [frozen(view) for view in exact.views(rows)]
    maps, of_frozen = frozen(exact.augmented(rows, transforms))
    for i, side in enumerate((0, 1, 0)):
        assert torch.equal(of_frozen[i], whole[side].features[i])
        height, width = maps.shape[2:]
        windows = whole[side].maps[i].unfold(1, height, 1).unfold(2, width, 1)
        assert (windows == maps[i][:, None, None]).all(dim=(0, 3, 4)).any()
    # Nothing is computed twice, and nothing depends on what was computed before.
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    other = Inputs(model, posters, CPU, 3)
    other.features(np.array([0, 2]), with_maps=True)
    compute = Mock(wraps=other._compute)
    monkeypatch.setattr(other, "_compute", compute)
    for _ in range(2):
        for one, again in zip(views, other.views(rows), strict=True):
            assert all(map(torch.equal, one, frozen(again)))
    assert [call.args[0].tolist() for call in compute.call_args_list] == [[1, 4]]
    # Nor on whether the disk has room: half of what is free is left to others. What does not fit is said once.
    small, full = (Inputs(model, posters, CPU, 3) for _ in "ab")
    one_poster = 2 * other._bytes
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Mock(free=2 * 2 * one_poster))
    for inputs in (small, full):
        for _ in range(2):
            for one, again in zip(views, inputs.views(rows), strict=True):
                assert all(map(torch.equal, one, frozen(again)))
        said = "warning: .dvc/tmp has no room for all frozen blocks' maps; some are computed in each epoch\n"
        assert capsys.readouterr().err == said
        assert np.flatnonzero(inputs._kept).tolist() == ([1, 2] if inputs is small else [])
        monkeypatch.setattr("os.pwrite", lambda *arguments: raise_(OSError(errno.ENOSPC, "No space left on device")))
    assert list((tmp_path / ".dvc" / "tmp").iterdir()) == []


def frozen(view: Tensor | FrozenMaps) -> FrozenMaps:
    assert isinstance(view, FrozenMaps)
    return view


def raise_(error: Exception) -> int:
    raise error


def test_windows_are_everywhere() -> None:
    torch.manual_seed(0)
    maps = torch.arange(40 * 28).view(1, 1, 40, 28).expand(500, 1, 40, 28)
    transforms = random_transforms(500, flip=True, crop=0.3, one_size=True)
    assert transforms is not None
    cropped = crop_windows(maps, transforms)
    scale = float(transforms[0, 1, 1])
    assert 0.7 < scale < 1
    assert cropped.shape == (500, 1, round(40 * scale), round(28 * scale))
    tops, lefts = cropped[:, 0, 0, 0] // 28, cropped[:, 0, 0, 0] % 28
    assert sorted(tops.unique().tolist()) == list(range(40 - cropped.shape[2] + 1))
    assert sorted(lefts.unique().tolist()) == list(range(28 - cropped.shape[3] + 1))
    transforms = random_transforms(500, flip=True, crop=0.0, one_size=True)
    assert transforms is not None
    assert torch.equal(crop_windows(maps, transforms), maps)


def test_augmentation_changes_posters_but_not_their_kind() -> None:
    torch.manual_seed(0)
    posters = torch.randn(64, 3, 20, 12).cumsum(3)
    assert random_transforms(6, flip=False, crop=0.0) is None
    assert torch.equal(augment(posters, None), posters)
    flipped = augment(posters, random_transforms(64, flip=True, crop=0.0))
    mirrored = [torch.allclose(new, old.flip(2), atol=1e-4) for new, old in zip(flipped, posters, strict=True)]
    kept = [torch.allclose(new, old, atol=1e-4) for new, old in zip(flipped, posters, strict=True)]
    assert sum(mirrored) + sum(kept) == 64
    assert 16 < sum(mirrored) < 48
    cropped = augment(posters, random_transforms(64, flip=False, crop=0.5))
    assert cropped.shape == posters.shape
    assert cropped.min() >= posters.min() - 1e-4
    assert not torch.allclose(cropped, posters, atol=0.1)


def test_windows_of_posters_are_not_enlarged() -> None:
    torch.manual_seed(0)
    posters = torch.randn(64, 3, 50, 40)
    sizes = set()
    for _ in range(20):
        transforms = random_transforms(64, flip=True, crop=0.5, one_size=True)
        assert transforms is not None
        windows = augment(posters, transforms, windows=True)
        assert windows.is_contiguous(memory_format=torch.channels_last)
        height, width = windows.shape[2:]
        sizes.add((height, width))
        for window, poster, transform in zip(windows[:2], posters, transforms, strict=False):
            whole = poster.flip(2) if transform[0, 0] < 0 else poster
            places = whole.unfold(1, height, 1).unfold(2, width, 1)
            assert (places == window[:, None, None]).all(dim=(0, 3, 4)).sum() == 1
    # Few sizes: multiples of sixteen.
    assert {height for height, _ in sizes} == {32, 48}
    assert {width for _, width in sizes} == {16, 32}
    # Without cropping, the whole.
    whole = augment(posters, random_transforms(64, flip=True, crop=0.0, one_size=True), windows=True)
    assert all(torch.equal(new, old) or torch.equal(new, old.flip(2)) for new, old in zip(whole, posters, strict=True))
