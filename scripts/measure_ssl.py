"""What pretraining without labels is worth, beside features that nobody trained.

    python scripts/measure_ssl.py knn [--ssl s0.ckpt s1.ckpt s2.ckpt] [--root acevedo_pbc] [--json results/ssl_knn.json]
    python scripts/measure_ssl.py chula [--ssl ...] [--supervised best.ckpt] [--json results/ssl_chula.json]

knn: single blood cells, a folder a class. Each test picture gets the class that most of its 10 nearest training
pictures have (cosine similarity of features); the score is the balanced accuracy. Features are taken as they are and
standardised (mean 0, variance 1 over the training pictures). Training and test pictures are those of the checkpoints'
own split where it can be rebuilt from their config on this folder, so that no test picture was pretrained on; else 70 %
and 30 % of each class, and how many test pictures were seen without labels is told, or that it is not known.

chula: normal cells, spherocytes, stomatocytes and burr cells of Chula RBC-12, cut out around their points; a linear
classifier (logistic regression, classes weighed the same, strength chosen by grouped cross validation) on frozen,
standardised features; the score is macro-F1. 70 % of the images train, 30 % test; images of one slide may be in both.

Rows: pretrained networks, one a seed; the same network without training; the mean and standard deviation of each
channel; the picture at 8 x 8 px; for chula also a network that was trained with labels. All but the last see the same
input, that of the checkpoints. Several seeds count by the mean of their scores. Intervals (95 %) and paired differences
are from 2000 resamplings of the test pictures (chula: of its images): they hold for these trainings, not for others.
"The best trivial" is the best on the test pictures, and so flattered.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, Dataset

from hemolens.analysis.probes import Bootstrapped, balanced_accuracy, bootstrapped, linear_probe, macro_f1
from hemolens.callbacks.checkpoint_contents import KEY
from hemolens.cli.run_guard import git_state
from hemolens.data.classification import CropDataset, CropRecord, CropSpec, collate_classification
from hemolens.data.image_folder import find_pictures, folder_classes, split_pictures
from hemolens.data.points import CHULA_SIDE_PX, PointCellDataset, cut_cells
from hemolens.errors import UserError
from hemolens.inference.load import build_task, read_checkpoint, without_weight_files
from hemolens.io.atomic import write_json
from hemolens.metrics.neighbours import knn_predict
from hemolens.nets.moco import MoCo
from hemolens.tasks.precision import device_name

Maker = Callable[[Tensor], Tensor]
Runs = dict[str, list[NDArray[np.float32]]]

BATCH = 64
NEIGHBOURS = 10
SHARES = (0.7, 0.0, 0.3)
SPLIT_SEED = 0
SSL, RANDOM, SUPERVISED = "pretrained without labels", "random initialisation", "trained with labels"
TRIVIAL: dict[str, Maker] = {
    "channel means and SDs": lambda images: torch.cat([images.mean((2, 3)), images.std((2, 3))], dim=1),
    "8 x 8 px": lambda images: adaptive_avg_pool2d(images, 8).flatten(1),
}
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of data=unlabelled
STARTS = ("pretrained", "init_from")  # settings of a network that name weights to begin with
PLAIN, STANDARDISED = "as they are", "standardised"


def main() -> None:
    """Print and, with ``--json``, keep the comparison."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--ssl", type=Path, nargs="+", default=[], help="checkpoints of one pretraining, one a seed")
    common.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of random initialisations (0 1 2)")
    common.add_argument("--encoder", default="resnet18", help="without --ssl: timm network that is not trained")
    common.add_argument("--image-px", type=int, default=112, help="without --ssl: side of the input (112)")
    common.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    common.add_argument("--num-workers", type=int, default=0, help="processes that read pictures (0)")
    common.add_argument("--json", type=Path, help="file to write; refuses to overwrite")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="what", required=True)
    knn = ways.add_parser("knn", parents=[common], help="nearest neighbours among single blood cells")
    knn.add_argument("--root", type=Path, help="folder of class folders (HEMOLENS_ACEVEDO, or acevedo_pbc of the data)")
    knn.add_argument("--min-images", type=int, default=100, help="of a class that counts (100)")
    knn.add_argument("--class-names", nargs="+", help="folders that count, instead of those with --min-images")
    knn.add_argument("--crop-px", type=int, help="without --ssl: side of the square cut out first (the largest)")
    chula = ways.add_parser("chula", parents=[common], help="linear probe for four types of red cells")
    chula.add_argument("--root", type=Path, help="folder of the set (HEMOLENS_CHULA, or chula_rbc12 of the data)")
    chula.add_argument("--supervised", type=Path, help="checkpoint of a classifier, e.g. of cls_resnet18_acevedo")
    chula.add_argument("--side-px", type=int, default=CHULA_SIDE_PX, help=f"side of the crops ({CHULA_SIDE_PX})")
    chosen = parser.parse_args()
    if chosen.json and chosen.json.exists():
        parser.error(f"{chosen.json} exists: remove it first")
    try:
        results = (_knn if chosen.what == "knn" else _chula)(chosen)
        if chosen.json:
            write_json(chosen.json, results)
    except UserError as error:
        parser.exit(error.exit_code, f"{error}\n")


@dataclass(frozen=True)
class Pretrained:
    """Pretrained networks of several seeds, or none, and what all networks see."""

    contents: list[dict[str, Any]]
    nets: list[Any]
    spec: CropSpec

    def random_net(self, seed: int, encoder: str) -> Any:
        """The same network without training, in evaluation mode."""
        torch.manual_seed(seed)
        if not self.contents:
            small: dict[str, Any] = {"decoder_channels": (8, 8, 8, 8, 8), "hidden_features": 8, "queue_size": 8}
            return MoCo(in_channels=self.spec.in_channels, encoder=encoder, **small).eval()
        config = self.contents[0][KEY]["config"]["net"]
        return instantiate(without_weight_files(config)).eval()


def load_pretrained(paths: Sequence[Path], without: CropSpec) -> Pretrained:
    """Networks of ``paths``; ``without`` any the input is that.

    Raises:
        UserError: another task, or networks or inputs that differ.
    """
    contents = [read_checkpoint(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        stored, first = content[KEY], contents[0][KEY]
        if stored["task"] != "MoCoReconstructionTask":
            raise UserError(f"{path} holds a {stored['task']}: --ssl wants checkpoints of a pretraining")
        if (stored["input"], stored["config"]["net"]) != (first["input"], first["config"]["net"]):
            raise UserError(f"{path} has another network or input than {paths[0]}: give seeds of one experiment")
    nets = [build_task(content, source=path).net for path, content in zip(paths, contents, strict=True)]
    spec = CropSpec.from_dict(contents[0][KEY]["input"]) if contents else without
    return Pretrained(contents, nets, spec)


def load_supervised(path: Path) -> tuple[dict[str, Any], CropSpec, Any]:
    """Checkpoint, input and timm network of a classifier.

    Raises:
        UserError: another task.
    """
    content = read_checkpoint(path)
    if content[KEY]["task"] != "ClassificationTask":
        raise UserError(f"{path} holds a {content[KEY]['task']}: --supervised wants a checkpoint of a classification")
    return content, CropSpec.from_dict(content[KEY]["input"]), build_task(content, source=path).net.model


def before_classifier(net: Any, images: Tensor) -> Tensor:
    """Pooled features [B, F] of a timm network, those that its classifier sees."""
    features: Tensor = net.forward_head(net.forward_features(images), pre_logits=True)
    return features


@torch.inference_mode()
def features_of(
    samples: Dataset[Any], makers: Mapping[str, Sequence[Maker]], device: torch.device, workers: int = 0
) -> Runs:
    """What each maker makes of the images [B, C, S, S] of all samples: float32 [N, F] each."""
    loader = DataLoader(samples, BATCH, collate_fn=collate_classification, num_workers=workers)
    found: dict[str, list[list[Tensor]]] = {name: [[] for _ in own] for name, own in makers.items()}
    for batch in track(loader, description="features", console=Console(stderr=True)):
        images = batch["images"].to(device)
        for name, own in makers.items():
            for parts, make in zip(found[name], own, strict=True):
                parts.append(make(images).float().cpu())
    return {name: [torch.cat(parts).numpy() for parts in runs] for name, runs in found.items()}


def _makers(pretrained: Pretrained, chosen: argparse.Namespace) -> dict[str, list[Maker]]:
    device = torch.device(chosen.device)
    makers: dict[str, list[Maker]] = {}
    if pretrained.nets:
        makers[SSL] = [net.to(device).features for net in pretrained.nets]
    makers[RANDOM] = [pretrained.random_net(seed, chosen.encoder).to(device).features for seed in chosen.seeds]
    return makers | {name: [make] for name, make in TRIVIAL.items()}


def _knn(chosen: argparse.Namespace) -> dict[str, Any]:
    pretrained = load_pretrained(chosen.ssl, CropSpec(image_px=chosen.image_px, crop_px=chosen.crop_px, **IMAGENET))
    root = chosen.root or _default_root("HEMOLENS_ACEVEDO", "acevedo_pbc")
    files = find_pictures(root)
    names, all_labels = folder_classes(root, files, chosen.class_names, chosen.min_images)
    known = [index for index, label in enumerate(all_labels) if label >= 0]
    if len(names) < 2:
        raise UserError(f"{root}: {len(names)} class with {chosen.min_images} pictures: lower --min-images")
    labels = np.array([all_labels[index] for index in known])
    pretrained_on = [trained_files(content, root, files) for content in pretrained.contents]
    own, train, test = _split(known, labels, pretrained_on)
    records = [CropRecord(files[index], all_labels[index], root / files[index]) for index in known]
    samples = CropDataset(records, spec=pretrained.spec)
    runs = features_of(samples, _makers(pretrained, chosen), torch.device(chosen.device), chosen.num_workers)
    rows: dict[str, Bootstrapped] = {}
    for name, found in runs.items():
        for way in (PLAIN, STANDARDISED):
            said = [neighbours_say(features, labels, train, test, way) for features in found]
            rows[f"{name}, {way}"] = bootstrapped(balanced_accuracy, labels[test], said, len(names))
    held_out = {known[index] for index in test}
    seen = [None if parts is None else len(held_out & parts) for parts in pretrained_on]
    parts = {"training": len(train), "test": len(test)}
    counts = {part: _counted(labels[own_part], names) for part, own_part in (("training", train), ("test", test))}
    title = f"balanced accuracy of {NEIGHBOURS} nearest neighbours, {parts['training']} training, {parts['test']} test"
    told = _told(rows, title, [(f"{SSL}, {way}", f"{RANDOM}, {way}") for way in (PLAIN, STANDARDISED)])
    print(f"test pictures that each pretraining saw without labels (None: not known): {seen}" if seen else "")
    return {
        **_about(pretrained, chosen),
        "k": NEIGHBOURS,
        "split": {
            "of": "the checkpoints" if own else f"70 % and 30 % of each class, seed {SPLIT_SEED}",
            "pictures": parts,
            "test_pictures_seen_without_labels": seen,
            "null_means": "pretrained on another folder, or its split cannot be rebuilt: pictures may have been seen",
        },
        "class_counts": counts,
        "balanced_accuracy": told,
    }


def trained_files(content: Mapping[str, Any], root: Path, files: Sequence[str]) -> set[int] | None:
    """Which of the files a pretraining saw, rebuilt from its config; None where that says another folder.

    Another folder is one of another name, or with other classes.
    """
    stored = content[KEY]
    data = stored["config"]["data"]
    if not data["_target_"].endswith(".BloodCellDataModule") or Path(data["root"]).name != root.resolve().name:
        return None
    try:
        names, labels = folder_classes(root, files, data["class_names"], data["min_images"])
    except UserError:
        return None
    if list(names) != list(stored["class_names"]):
        return None
    return set(split_pictures(labels, data["split"], seed=data["split_seed"])["train"])


def _split(
    known: Sequence[int], labels: NDArray[np.int64], pretrained_on: Sequence[set[int] | None]
) -> tuple[bool, list[int], list[int]]:
    """Whether the split is the checkpoints' own, and which of the known pictures train and test."""
    first = pretrained_on[0] if pretrained_on else None
    if first is not None and all(parts == first for parts in pretrained_on):
        train = [place for place, index in enumerate(known) if index in first]
        test = [place for place, index in enumerate(known) if index not in first]
        if set(labels[train]) == set(labels[test]) == set(labels):
            return True, train, test
    parts = split_pictures(labels.tolist(), SHARES, seed=SPLIT_SEED)
    if set(labels[parts["test"]]) != set(labels):
        raise UserError("a class has too few pictures for a test part: raise --min-images")
    return False, parts["train"], parts["test"]


def neighbours_say(
    features: NDArray[np.float32], labels: NDArray[np.int64], train: list[int], test: list[int], way: str
) -> NDArray[np.int64]:
    """Labels of the test pictures by their nearest training pictures."""
    values = torch.from_numpy(features).double()
    if way == STANDARDISED:
        values = (values - values[train].mean(0)) / values[train].std(0).clamp_min(torch.finfo(torch.float32).tiny)
    return np.asarray(knn_predict(values[train], torch.from_numpy(labels)[train], values[test], NEIGHBOURS).numpy())


def _chula(chosen: argparse.Namespace) -> dict[str, Any]:
    pretrained = load_pretrained(chosen.ssl, CropSpec(image_px=chosen.image_px, **IMAGENET))
    cells = cut_cells(chosen.root or _default_root("HEMOLENS_CHULA", "chula_rbc12"), side_px=chosen.side_px)
    train, test = cells.split((SHARES[0], SHARES[2]), seed=SPLIT_SEED)
    device, workers = torch.device(chosen.device), chosen.num_workers
    makers = _makers(pretrained, chosen)
    runs = features_of(PointCellDataset(cells, spec=pretrained.spec), makers, device, workers)
    trained = None
    if chosen.supervised:
        content, spec, net = load_supervised(chosen.supervised)
        net.to(device)
        makers = {SUPERVISED: [partial(before_classifier, net)]}
        runs |= features_of(PointCellDataset(cells, spec=spec), makers, device, workers)
        trained = {name: content[KEY]["config"][name] for name in ("task_name", "seed")}
    images, names = cells.images, cells.class_names
    rows, strengths, balanced, by_class = {}, {}, {}, {}
    for name, found in track(runs.items(), description="probes", console=Console(stderr=True)):
        probes = [linear_probe(f[train], cells.labels[train], f[test], groups=images[train]) for f in found]
        said = [probe.predictions for probe in probes]
        truth, groups = cells.labels[test], images[test]
        rows[name] = bootstrapped(macro_f1, truth, said, len(names), groups=groups)
        strengths[name] = [probe.strength for probe in probes]
        both = bootstrapped(balanced_accuracy, truth, said, len(names), groups=groups)
        balanced[name] = {"runs": both.runs.tolist(), "mean": both.value, "interval": list(both.interval())}
        recalls = [np.mean([(run[truth == label] == label).mean() for run in said]) for label in range(len(names))]
        by_class[name] = dict(zip(names, map(float, recalls), strict=True))
    counts = {"training": cells.counts(train), "test": cells.counts(test)}
    parts = {part: len(set(images[own])) for part, own in (("training", train), ("test", test))}
    title = f"macro-F1 of a linear probe, {len(train)} training cells, {len(test)} test cells of {parts['test']} images"
    told = _told(rows, title, [(SSL, RANDOM), (SSL, SUPERVISED)])
    return {
        **_about(pretrained, chosen),
        "supervised": trained,
        "split": {"of": f"70 % and 30 % of the images, seed {SPLIT_SEED}", "images": parts},
        "side_px": chosen.side_px,
        "class_counts": counts,
        "left_out_at_the_edge": cells.left_out,
        "class_balance": "all training cells, classes weighed the same; none left out",
        "macro_f1": told,
        "balanced_accuracy": balanced,
        "recall": by_class,
        "strengths": strengths,
    }


def _told(rows: Mapping[str, Bootstrapped], title: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Print rows and what they say of each other, and return both as plain data.

    Args:
        rows: scores on one test set.
        title: of the table.
        pairs: rows to compare, where there are both; each row is compared with the best trivial one too.
    """
    table = Table(Column("features", no_wrap=True), "mean", "95 %", Column("each seed", no_wrap=True), title=title)
    for name, row in rows.items():
        low, high = row.interval()
        each = " ".join(f"{run:.3f}" for run in row.runs) if len(row.runs) > 1 else ""
        table.add_row(name, f"{row.value:.3f}", f"{low:.3f} to {high:.3f}", each)
    console = Console()
    console.print(table)
    trivial = max((name for name in rows if name.startswith(tuple(TRIVIAL))), key=lambda name: rows[name].value)
    others = [(name, trivial) for name in rows if not name.startswith(tuple(TRIVIAL))]
    said = []
    for first, second in [*(pair for pair in pairs if rows.keys() >= set(pair)), *others]:
        gain, (low, high) = rows[first].minus(rows[second])
        verdict = "above" if low > 0 else "below" if high < 0 else "not told apart from"
        said.append({"of": first, "than": second, "difference": gain, "interval": [low, high], "verdict": verdict})
        console.print(f"{first}: {verdict} {second}, {gain:+.3f} ({low:+.3f} to {high:+.3f})", soft_wrap=True)
    kept = {
        name: {"runs": row.runs.tolist(), "mean": row.value, "interval": list(row.interval())}
        for name, row in rows.items()
    }
    return {"rows": kept, "best_trivial": trivial, "differences": said}


def _about(pretrained: Pretrained, chosen: argparse.Namespace) -> dict[str, Any]:
    configs = [content[KEY]["config"] for content in pretrained.contents]
    options = [*(["--ssl", *(path.name for path in chosen.ssl)] if chosen.ssl else [])]
    options += ["--seeds", *map(str, chosen.seeds)]
    names = ("encoder", "image_px", "crop_px") if not chosen.ssl else ()
    for name in (*names, "min_images", "side_px"):
        if getattr(chosen, name, None) is not None:
            options += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    if getattr(chosen, "class_names", None):
        options += ["--class-names", *chosen.class_names]
    if getattr(chosen, "supervised", None):
        options += ["--supervised", chosen.supervised.name]
    return {
        "command": f"python scripts/measure_ssl.py {chosen.what} {' '.join(options)}",
        "task_name": configs[0]["task_name"] if configs else None,
        "seeds": {
            "pretraining": [config["seed"] for config in configs],
            "random_initialisation": chosen.seeds,
            "split": SPLIT_SEED,
            "bootstrap": 0,
        },
        "epochs": [content["epoch"] for content in pretrained.contents],
        "began_with_pretrained_weights": any(config["net"].get(name) for config in configs for name in STARTS),
        "input": pretrained.spec.to_dict(),
        "commit": git_state()["commit"],
        "device": device_name(torch.device(chosen.device)),
    }


def _default_root(variable: str, folder: str) -> Path:
    """As the experiments' configs say."""
    here = os.environ.get("HEMOLENS_DATA", Path(os.environ.get("HEMOLENS_ROOT", ".")) / "data")
    return Path(os.environ.get(variable, Path(here) / folder))


def _counted(labels: NDArray[np.int64], names: Sequence[str]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


if __name__ == "__main__":
    main()
