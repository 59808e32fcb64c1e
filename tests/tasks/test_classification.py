"""Classification: loss and scores against plain transcriptions, and a net in miniature that learns crops by heart."""

import math
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from hemolens.data.modules.cell_folder import CellFolderDataModule
from hemolens.errors import UserError
from hemolens.nets.classifier import TimmClassifier
from hemolens.tasks.classification import ClassificationTask, balanced_weights, classification_metrics

NAMES = ["a", "b", "c"]


def literal_loss(logits: list[list[float]], labels: list[int], weights: list[float], smoothing: float) -> float:
    """Cross entropy with smoothed targets, each class weighted, over the weights of the truths.

    The target of class k is (1 - s) [k = y] + s / K (arXiv:1512.00567, section 7).
    """
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        normaliser = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = (1 - smoothing) * (k == label) + smoothing / len(row)
            total -= weights[k] * target * (value - normaliser)
    return total / sum(weights[label] for label in labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]])
def test_loss_is_the_formula(smoothing: float, weights: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 1, 1, 0, 2])
    task = ClassificationTask(
        net=torch.nn.Identity(),
        class_names=NAMES,
        label_smoothing=smoothing,
        class_weights="balanced" if weights else None,
    )
    if weights:
        assert task.class_weight is not None
        task.class_weight.copy_(torch.tensor(weights))
    expected = literal_loss(logits.tolist(), labels.tolist(), weights or [1.0] * 3, smoothing)
    assert float(task.loss(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_make_classes_weigh_the_same() -> None:
    weights = balanced_weights([10, 30, 60])
    torch.testing.assert_close(weights, torch.tensor([100 / 30, 100 / 90, 100 / 180]))
    assert [10 * float(weights[0]), 60 * float(weights[2])] == pytest.approx([100 / 3, 100 / 3])


def literal_scores(truth: list[int], predicted: list[int], classes: int) -> dict[str, list[float]]:
    """Precision, recall and F1 of each class, counted one by one; 0 where there is nothing to divide by."""
    scores: dict[str, list[float]] = {"precision": [], "recall": [], "f1": []}
    for k in range(classes):
        tp = sum(t == k and p == k for t, p in zip(truth, predicted, strict=True))
        fp = sum(t != k and p == k for t, p in zip(truth, predicted, strict=True))
        fn = sum(t == k and p != k for t, p in zip(truth, predicted, strict=True))
        scores["precision"].append(tp / (tp + fp) if tp + fp else 0.0)
        scores["recall"].append(tp / (tp + fn) if tp + fn else 0.0)
        scores["f1"].append(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)
    return scores


def test_scores_are_counted_over_batches() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(0, 4, (50,), generator=generator)
    logits = torch.randn(50, 5, generator=generator) + torch.nn.functional.one_hot(truth, 5)
    logits[:, 4] = -9.0  # class 4 is neither true nor predicted
    metrics = classification_metrics(5)
    for part in (slice(0, 7), slice(7, 30), slice(30, 50)):  # unequal batches: a mean of their scores would differ
        metrics.update(logits[part], truth[part])
    found = metrics.compute()
    predicted = logits.argmax(1).tolist()
    expected = literal_scores(truth.tolist(), predicted, 5)
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values), name
    assert float(found["f1_macro"]) == pytest.approx(sum(expected["f1"][:4]) / 4)
    right = sum(t == p for t, p in zip(truth.tolist(), predicted, strict=True))
    assert float(found["accuracy"]) == pytest.approx(right / 50) and int(found["confusion"].trace()) == right
    assert int(found["confusion"][2, 3]) == sum(
        t == 2 and p == 3 for t, p in zip(truth.tolist(), predicted, strict=True)
    )


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match="class_weights=inverse: choose balanced or null"):
        ClassificationTask(net=torch.nn.Identity(), class_names=NAMES, class_weights="inverse")
    with pytest.raises(UserError, match="label_smoothing=1"):
        ClassificationTask(net=torch.nn.Identity(), class_names=NAMES, label_smoothing=1.0)


def test_learns_a_handful_of_cells_by_heart(cell_folder: Path, tmp_path: Path) -> None:
    L.seed_everything(0, verbose=False)
    for name, kept in (("RBC", 8), ("WBC", 6), ("Platelets", 3)):  # unequal, so that the weights do something
        for path in sorted((cell_folder / name).iterdir())[kept:]:
            path.unlink()
    data = CellFolderDataModule(root=cell_folder, min_images=3, image_px=32, batch_size=8, split=(0.4, 0.3, 0.3))
    net = TimmClassifier(3, 3, "test_resnet")
    task = ClassificationTask(
        net=net,
        class_names=data.class_names,
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        class_weights="balanced",
    )
    trainer = L.Trainer(
        max_epochs=80,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(task, data)
    assert task.class_weight is not None
    counts = data.class_counts("train")
    assert len(set(counts)) > 1
    torch.testing.assert_close(task.class_weight, torch.tensor([sum(counts) / (3 * n) for n in counts]))
    trained = task.eval()
    with torch.no_grad():
        for batch in data.train_dataloader():
            assert trained(batch["images"]).argmax(1).tolist() == batch["labels"].tolist()
