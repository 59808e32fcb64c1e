"""A checkpoint can make hemolens build hemolens' own classes, and call nothing else."""

import pytest

from hemolens.errors import UserError
from hemolens.inference.safety import check_targets


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "hemolens.io.atomic.os.system",
        "hemolens.nets.fcos.backbone.torch.load",
        "torch.load",
        "hemolens.nets.fcos.model.Absent",
        "subprocess.run",
        17,
    ],
)
def test_foreign_targets_are_refused_wherever_they_hide(target: object) -> None:
    config = {"_target_": "hemolens.nets.fcos.model.FCOS", "parts": [{"deep": {"_target_": target}}]}
    with pytest.raises(UserError, match=r"made-up\.ckpt"):
        check_targets(config, source="made-up.ckpt")


def test_own_targets_pass() -> None:
    check_targets({"_target_": "hemolens.nets.fcos.model.FCOS", "x": {"_target_": "torch.optim.AdamW"}}, source="x")
