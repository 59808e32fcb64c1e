"""How memory and time of a training step grow with the batch, the image and the number of devices.

    python scripts/measure_scaling.py [--device cpu|cuda] [--quick] [--json results/scaling_cpu.json]
    python scripts/measure_scaling.py --docs      # tables and figure anew from the files in results/, nothing measured

Each row is a training by Lightning's Trainer on one batch of made-up images, in a fresh process (two for two devices),
with the network, task, optimizer and precision of a shipped experiment: the quick ones on a CPU, those of the papers'
size on a GPU. The time of a step is the median after two others. Memory is the process's peak (a GPU: its allocator's)
over the peak before the first step, and the peak of what autograd keeps for the backward pass, counted tensor by
tensor. On paper, beyond what was measured: multiply-accumulates and kept memory of the large networks, counted without
computing them, and the bytes that devices exchange.

The results go to JSON, their tables between the markers of docs/scaling.md, the figure to docs/images/scaling.png.
"""

import argparse
import contextlib
import json
import logging
import os
import resource
import shlex
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from hemolens.cli.app import compose_config
from hemolens.cli.build import build_task, count_macs
from hemolens.cli.run_guard import git_state
from hemolens.errors import UserError
from hemolens.io.atomic import write_json
from hemolens.tasks.precision import auto_precision, device_name

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("detection", "segmentation", "diffusion", "pretraining")
EXPERIMENTS = {
    "cpu": dict(
        zip(
            FAMILIES,
            (
                "det_fcos_r18_pafpn_tomogram_quick",
                "seg_resunet18_simholo_quick",
                "gan_mask_simholo_quick",
                "ssl_resunet18_simholo_quick",
            ),
            strict=True,
        )
    ),
    "cuda": dict(
        zip(
            FAMILIES,
            ("det_fcos_r50_fpn_tomogram", "seg_resunet_simholo", "gan_mask_simholo", "ssl_resunet_simholo"),
            strict=True,
        )
    ),
}
# Batch sizes at the first side, sides at the first batch size, numbers of devices at both.
GRIDS: dict[str, dict[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]] = {
    "cpu": {
        "detection": ((2, 1, 4, 8), (256, 128, 384, 512), (1, 2)),
        "segmentation": ((4, 1, 8, 16), (128, 64, 192, 256), (1, 2)),
        "diffusion": ((4, 2, 8, 16), (64, 32, 96, 128), (1, 2)),
        "pretraining": ((8, 4, 16, 32), (96, 64, 128, 192), (1, 2)),
    },
    "cuda": {
        "detection": ((4, 1, 8, 16), (1024, 512, 1440), (1,)),
        "segmentation": ((16, 4, 32, 64), (256, 128, 512), (1,)),
        "diffusion": ((4, 1, 8, 16), (256, 128), (1,)),
        "pretraining": ((64, 16, 128, 256), (224, 128, 256), (1,)),
    },
}
QUICK: tuple[Sequence[int], Sequence[int], Sequence[int]] = ((2,), (32,), (1, 2))
WARM_UP, TIMED = 2, 7
MB = 1e6


@dataclass(frozen=True)
class Cell:
    """One row: a family's training at a size."""

    family: str
    experiment: str
    batch: int  # of each device
    side: int  # px
    devices: int
    device: str
    seed: int
    steps: int = TIMED


def cells(device: str, seed: int, *, quick: bool) -> Iterator[Cell]:
    """The rows to measure: each of the three sizes varied alone."""
    for family, experiment in EXPERIMENTS[device].items():
        batches, sides, counts = QUICK if quick else GRIDS[device][family]
        sizes = [(batch, sides[0], 1) for batch in batches] + [(batches[0], side, 1) for side in sides[1:]]
        sizes += [(batches[0], sides[0], count) for count in counts[1:]]
        for batch, side, count in sizes:
            yield Cell(family, experiment, batch, side, count, device, seed, 1 if quick else TIMED)


def config_of(experiment: str, side: int) -> Any:
    """The composed config of an experiment for images of ``side`` px."""
    cfg: Any = compose_config("train", [f"experiment={experiment}"])
    if "image_px" in cfg.net:  # its levels and their attention are those of its side
        cfg.net.attention_px = [of * side // cfg.net.image_px for of in cfg.net.attention_px]
        cfg.net.image_px = side
    return cfg


def task_of(cfg: Any) -> Any:
    """The task of a config."""
    return build_task(cfg, tuple(cfg.data.class_names))


def batch_of(family: str, count: int, side: int, channels: int, classes: int, rank: int) -> dict[str, Any]:
    """A made-up batch: cells of 24 px where there is room, noise elsewhere."""
    rng = torch.Generator().manual_seed(rank)
    names = [f"image{number}" for number in range(count)]
    images = torch.rand(count, channels, side, side, generator=rng) * 2 - 1
    if family == "pretraining":
        views = torch.stack([images, images.flip(3)], 1)
        return {"views": views, "targets": views, "image_ids": names}
    places = torch.cartesian_prod(*[torch.arange(0, side - 23, 48)] * 2)
    labels = torch.randint(0, classes, (len(places),), generator=rng)
    if family == "detection":
        boxes = torch.cat([places, places + 24], 1).float()
        target = {"boxes": boxes, "labels": labels}
        sizes = torch.tensor([[side, side]] * count)
        return {"images": images, "image_sizes": sizes, "targets": [target] * count, "image_ids": names}
    maps = torch.zeros(count, side, side, dtype=torch.int64)
    for (y, x), label in zip(places.tolist(), labels.tolist(), strict=True):
        maps[:, y : y + 24, x : x + 24] = label
    return {"images": images, "classes": maps, "image_ids": names, "origins": ["simulated"] * count}


class Kept:
    """Bytes that autograd keeps for the backward pass, each tensor's memory once, without the parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = {parameter.untyped_storage()._cdata for parameter in parameters}
        self.holders: dict[int, int] = {}
        self.now = self.peak = 0

    def __enter__(self) -> "Kept":
        self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda kept: _Holder(self, kept), lambda held: held.kept)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


class _Holder:
    def __init__(self, count: Kept, kept: Tensor) -> None:
        self.count, self.kept = count, kept
        storage = kept.untyped_storage()
        self.key, self.size = storage._cdata, storage.nbytes()
        if self.key in count.parameters:
            self.size = 0
        if count.holders.setdefault(self.key, 0) == 0:
            count.now += self.size
        count.holders[self.key] += 1
        count.peak = max(count.peak, count.now)

    def __del__(self) -> None:
        self.count.holders[self.key] -= 1
        if self.count.holders[self.key] == 0:
            self.count.now -= self.size


def measure(cell: Cell) -> dict[str, Any]:
    """Train at one size, in this process; with several devices, as one of their processes."""
    L.seed_everything(cell.seed, verbose=False)
    cfg = config_of(cell.experiment, cell.side)
    task = task_of(cfg)
    channels, classes = task.net.in_channels, len(task.class_names)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    batch = batch_of(cell.family, cell.batch, cell.side, channels, classes, rank)
    macs = count_macs(task.net, *task.example_inputs(torch.zeros(1, channels, cell.side, cell.side)))
    watch = Watch(cell)
    strategy = "ddp" if task.automatic_optimization else "ddp_find_unused_parameters_true"
    trainer = L.Trainer(
        accelerator=cell.device,
        devices=cell.devices,
        strategy=strategy if cell.devices > 1 else "auto",
        precision=auto_precision(cell.device),  # type: ignore[arg-type]
        gradient_clip_val=cfg.trainer.gradient_clip_val if task.automatic_optimization else None,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[watch],
    )
    loader = torch.utils.data.DataLoader([batch] * (WARM_UP + cell.steps + 1), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(task, loader)
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    entries = [entry for optimizer in trainer.optimizers for entry in optimizer.state.values()]
    moments = sum(value.nbytes for entry in entries for value in entry.values() if isinstance(value, Tensor))
    return {
        **asdict(cell),
        "net": cfg.net._target_.rpartition(".")[2],
        "precision": str(trainer.precision),
        "parameters": sum(parameter.numel() for parameter in trained),
        "forward_macs_an_image": macs,
        "step_ms": quartiles(1e3 * seconds for seconds in watch.seconds),
        "images_per_second": round(cell.batch * cell.devices / float(np.median(watch.seconds)), 3),
        "peak_mb": round((watch.peak - watch.before) / MB, 1),
        "kept_mb": round(watch.kept.peak / MB, 1),
        "optimizer_state_mb": round(moments / MB, 1),
    }


class Watch(L.Callback):
    """Times the steps between warm-up and the last, in which it counts what autograd keeps."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.seconds = cell, list[float]()
        self.peak = self.before = 0
        self.kept = Kept([])

    def memory(self) -> int:
        if self.cell.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def now(self) -> float:
        if self.cell.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = self.memory()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP + self.cell.steps:
            self.peak = self.memory()
            self.kept = Kept(list(pl_module.parameters()))
            self.kept.__enter__()
        self.start = self.now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP + self.cell.steps:
            self.kept.__exit__(None, None, None)
        elif batch_idx >= WARM_UP:
            self.seconds.append(self.now() - self.start)


def quartiles(values: Any) -> dict[str, float]:
    """Median with the quartiles, to four digits."""
    cuts = np.quantile(list(values), [0.25, 0.5, 0.75])
    return {name: float(f"{cut:.4g}") for name, cut in zip(("q1", "median", "q3"), cuts, strict=True)}


def in_fresh_processes(cell: Cell) -> dict[str, Any]:
    """:func:`measure` in a process of its own for each device; the answer of the first.

    Raises:
        UserError: one of them failed.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(cell.devices), "NODE_RANK": "0"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", json.dumps(asdict(cell))]
    running = [
        subprocess.Popen(
            command,
            env=os.environ | (shared | {"LOCAL_RANK": str(rank)} if cell.devices > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(cell.devices)
    ]
    told = [process.communicate() for process in running]
    for process, (_, error) in zip(running, told, strict=True):
        if process.returncode:
            last = (error.strip().splitlines() or [f"a process ended with {process.returncode} and said nothing"])[-1]
            raise UserError(f"{cell.family}, batch {cell.batch}, {cell.side} px: {last}", exit_code=1)
    answer: dict[str, Any] = json.loads(told[0][0].splitlines()[-1])
    return answer


def facts(device: str, threads: int) -> dict[str, Any]:
    """What was measured on."""
    return {
        "device": device_name(torch.device(device)),
        "threads": threads,
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
        "git": {key: value for key, value in git_state().items() if key != "branch"},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the JSON, and bring the page up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(GRIDS), default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one step: does it run? No page is written")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch in each process (1)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and noise (0)")
    parser.add_argument("--json", type=Path, help="results/scaling_<device>.json; outputs/scaling_quick.json if quick")
    parser.add_argument("--docs", action="store_true", help="measure nothing; tables and figure from results/")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        with contextlib.redirect_stdout(sys.stderr):
            found = measure(Cell(**json.loads(chosen.one)))
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # else a thread of it may crash at the exit
        print(json.dumps(found))
        return 0
    try:
        if not chosen.docs:
            run(chosen)
        if not chosen.quick:
            from scaling_page import write_page  # beside this file

            write_page(ROOT)
    except UserError as error:
        print(f"measure_scaling: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(chosen: argparse.Namespace) -> None:
    """Measure all rows and write them."""
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU here; leave it out to measure on the CPU")
    if chosen.threads < 1:
        raise UserError(f"--threads {chosen.threads}: give a whole number from 1")
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    target = chosen.json or ROOT / (
        "outputs/scaling_quick.json" if chosen.quick else f"results/scaling_{chosen.device}.json"
    )
    words = ["python", "scripts/measure_scaling.py", f"--device={chosen.device}", f"--threads={chosen.threads}"]
    command = shlex.join([*words, f"--seed={chosen.seed}"]) + " --quick" * chosen.quick
    about = {"command": command, "quick": chosen.quick, "seed": chosen.seed, **facts(chosen.device, chosen.threads)}
    todo = list(cells(chosen.device, chosen.seed, quick=chosen.quick))
    rows = [in_fresh_processes(cell) for cell in track(todo, description="sizes")]
    write_json(target, {**about, "rows": rows}, overwrite=True)
    print(f"written: {target}")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sys.exit(main())
