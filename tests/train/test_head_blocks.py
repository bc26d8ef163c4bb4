"""A head that is solved in blocks: the answer of the whole table, on any number of threads, in little memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from zoo.train import head_blocks
from zoo.train.linear_head import HeadFit, cross_entropies, solve


def pictures(count: int, classes: int, features: int = 48, seed: int = 0):
    """Return two groups of correlated features around one centre per class, and labels uint8 (count, classes)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(0, 1, (features, features)) * np.geomspace(1, 0.02, features)
    labels = rng.integers(0, classes, count)
    values = (rng.normal(0, 0.35, (classes, features))[labels] + rng.normal(0, 1, (count, features))) @ mixing + 3
    values = values.astype("float32")
    return [values[:, :30], values[:, 30:] * 7], np.eye(classes, dtype="uint8")[labels]


def in_blocks(monkeypatch, size: int = 100) -> None:
    monkeypatch.setattr(head_blocks, "LARGEST", 0)
    monkeypatch.setattr(head_blocks, "BLOCK", size)


def held_out_logits(fit: HeadFit) -> np.ndarray:
    return fit.logits - fit.logits.mean(axis=1, keepdims=True) if fit.logits.shape[1] > 1 else fit.logits


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("multiclass", {}),
        ("multiclass", {"label_smoothing": 0.2, "weights": np.array([0.5, 1, 2, 1], "float32")}),
        ("multiclass", {"l2": 0.002}),
        ("binary", {"weights": np.array([0.5, 2], "float32")}),
        ("multilabel", {"folds": 3}),
    ],
)
def test_blocks_give_the_head_of_the_whole_table(task, options, monkeypatch):
    groups, targets = pictures(950, 2 if task == "binary" else 4)
    whole = solve(groups, targets, task=task, **options)
    in_blocks(monkeypatch)
    blocks = solve(groups, targets, task=task, **options)
    assert 0.3 < blocks.penalty / whole.penalty < 4 and np.array_equal(blocks.rows, whole.rows)
    # The heads agree where the loss does: directions without any effect on it may differ.
    assert blocks.loss == pytest.approx(whole.loss, abs=4e-3)
    assert np.abs(held_out_logits(blocks) - held_out_logits(whole)).mean() < 0.1 * np.abs(held_out_logits(whole)).mean()
    smoothing = options.get("label_smoothing", 0.0)
    losses = [fit.evaluate(groups, targets, task, label_smoothing=smoothing)[0].mean() for fit in (whole, blocks)]
    assert losses[1] == pytest.approx(losses[0], abs=4e-3)
    assert losses[0] < 0.9 * cross_entropies(np.zeros_like(whole.logits), targets[whole.rows], task).mean()


def test_the_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    groups, targets = pictures(700, 5)
    in_blocks(monkeypatch, 64)
    one, four = (solve(groups, targets, threads=threads) for threads in (1, 4))
    assert np.array_equal(one.kernel, four.kernel) and np.array_equal(one.logits, four.logits)


def test_features_that_depend_on_each_other_are_solved_with_a_weak_penalty(monkeypatch):
    """The covariance has many eigenvalues of 0, which sums in 32 bits can make negative."""
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 300, (600, 10)) @ rng.normal(0, 1, (10, 60)) + 900).astype("float32")
    targets = np.eye(4, dtype="uint8")[(values[:, :4] + rng.normal(0, 900, (600, 4))).argmax(axis=1)]
    whole = solve([values], targets, l2=1e-4)
    in_blocks(monkeypatch, 2048)
    assert solve([values], targets, l2=1e-4).loss == pytest.approx(whole.loss, abs=0.01)


def test_very_many_features_are_preconditioned_by_their_variances(monkeypatch):
    groups, targets = pictures(900, 4)
    whole = solve(groups, targets)
    in_blocks(monkeypatch)
    monkeypatch.setattr(head_blocks, "MOST_FEATURES", 20)
    assert solve(groups, targets).loss == pytest.approx(whole.loss, abs=4e-3)


def test_features_in_a_file_and_labels_of_one_byte_are_enough(monkeypatch, tmp_path):
    groups, targets = pictures(900, 4)
    mapped = []
    for i, group in enumerate(groups):
        mapped.append(np.lib.format.open_memmap(tmp_path / f"{i}.npy", "w+", np.float32, group.shape))
        mapped[-1][:] = group
    in_blocks(monkeypatch)
    assert np.array_equal(solve(mapped, targets).kernel, solve(groups, targets).kernel)
    groups[1][7, 3] = np.inf
    with pytest.raises(ValueError, match="must be finite"):
        solve(groups, targets)


MANY = """
import numpy as np
from zoo.reporter import peak_memory
from zoo.train.linear_head import solve
count, classes, features = COUNT, 300, 32
rng = np.random.default_rng(0)
labels = rng.integers(0, classes, count)
centres = rng.normal(0, 1, (classes, features)).astype("float32")
values = np.lib.format.open_memmap("values.npy", "w+", np.float32, (count, features))
for start in range(0, count, 1000):
    rows = slice(start, start + 1000)
    values[rows] = centres[labels[rows]] + rng.normal(0, 1, (len(labels[rows]), features))
targets = np.zeros((count, classes), np.uint8)
targets[np.arange(count), labels] = 1
solve([values[:300]], targets[:300], one_fold=True)
before = peak_memory()
fit = solve([values], targets, one_fold=True, threads=2)
print("PEAK", peak_memory() - before, fit.losses.mean())
"""


@pytest.mark.slow
def test_memory_hardly_grows_with_the_pictures(tmp_path):
    """One table of 40,000 pictures and 300 classes has 96 MB in 64 bits, and the whole problem has several."""
    grown = []
    for count in (20_000, 40_000):
        code = MANY.replace("COUNT", str(count))
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        _, peak, loss = ran.stdout.split()
        assert float(loss) < 2.0
        grown.append(int(peak))
    # One byte per class for the labels, 8 for the logits of a fifth, and copies of both.
    assert (grown[1] - grown[0]) / 20_000 / 300 < 8 and grown[1] < 120e6, grown
