"""Pretraining on two processes: the same as one process that sees the whole batch."""

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from hemolens.nets.moco import MoCo
from hemolens.tasks.moco import MoCoReconstructionTask

SIDE = 64


class Steps(L.LightningDataModule):
    """Three steps of six pictures, of which a process gets its share."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self.rows = slice(6 // world * rank, 6 // world * (rank + 1))

    def train_dataloader(self) -> Any:
        batches: Any = []
        for step in range(3):
            rng = torch.Generator().manual_seed(step)
            targets = torch.rand(6, 2, 1, SIDE, SIDE, generator=rng)[self.rows]
            batches.append({"views": targets.square(), "targets": targets, "image_ids": ["x"] * len(targets)})
        return torch.utils.data.DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


class Record(L.Callback):
    """The gradients and losses of each step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = pl_module.net.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.losses.append(float(trainer.logged_metrics["train/loss"]))


class Watched(MoCo):
    """Keeps what its momentum encoder sees."""

    seen: list[Tensor]

    def encode_keys(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.seen.append(images.clone())
        found: tuple[Tensor, list[Tensor]] = super().encode_keys(images)
        return found


def run(folder: str, rank: int, world: int) -> dict[str, Any]:
    """Train with batch statistics left alone, since those of half a batch are others."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"projection_features": 8, "hidden_features": 16, "queue_size": 14, "momentum": 0.9}
    net = Watched(2, 1, encoder="test_resnet", decoder_channels=(16, 16, 8, 8, 8), **sizes).eval()
    net.seen = []
    task = MoCoReconstructionTask(
        net=net, class_names=["a", "b"], optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9)
    )
    record = Record()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        default_root_dir=folder,
        use_distributed_sampler=False,
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
    )
    trainer.fit(task, datamodule=Steps(rank, world))
    assert not net.training
    return {"gradients": record.gradients, "losses": record.losses, "net": net.state_dict(), "seen": net.seen}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    code = f"import os, sys, torch\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "from test_moco_processes import run\nrank = int(os.environ['LOCAL_RANK'])\n"
    code += f"torch.save(run({str(tmp_path)!r}, rank, 2), f'{tmp_path}/{{rank}}.pt')"
    (tmp_path / "run.py").write_text(code)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, tmp_path / "run.py"], env=os.environ | environment | {"LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = run(str(tmp_path), 0, 1)
    for first, second, expected in zip(one["losses"], two["losses"], whole["losses"], strict=True):
        assert (first + second) / 2 == pytest.approx(expected, abs=1e-5)
    for gradients, expected in zip(one["gradients"], whole["gradients"], strict=True):
        assert set(gradients) == set(expected) and not any(name.startswith("key_") for name in expected)
        for name, value in expected.items():
            torch.testing.assert_close(gradients[name], value, atol=1e-5, rtol=1e-4)
    assert int(whole["net"]["queue.pointer"]) == 18 % 14
    for name, value in whole["net"].items():
        torch.testing.assert_close(one["net"][name], value, atol=1e-5, rtol=1e-4)
        assert torch.equal(one["net"][name], two["net"][name]), name
    orders = []  # in which the momentum encoders saw the whole batch
    for images, *halves in zip(whole["seen"], one["seen"], two["seen"], strict=True):
        orders.append([int((images == image).flatten(1).all(1).nonzero()) for image in torch.cat(halves)])
        assert sorted(orders[-1]) == list(range(6))
    assert any(set(order[:3]) != {0, 1, 2} for order in orders)  # across the processes
    assert len(set(map(tuple, orders))) > 1  # anew at each step
