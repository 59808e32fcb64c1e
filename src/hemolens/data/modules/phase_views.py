"""Pretraining on patches of phase images, without labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Annotated, Any

from hemolens.data.modules.phase_images import PhaseImageDataModule
from hemolens.data.modules.two_crops import TwoCropDataModule
from hemolens.data.two_crops import PHASE_SAFE, TwoCropAugmentation, TwoCrops
from hemolens.data.view_samples import PhaseCells, PhaseViews
from hemolens.errors import UserError


class PhaseViewsDataModule(TwoCropDataModule):
    """Loaders over patches of the phase images of another data module.

    Training sees patches at random places of its training images alone. Validation and test see a patch around each
    cell of its validation and test images; the label is that cell's type, with which features are judged. Of its
    settings those count that say which images there are and how they are split, ``phase_limits_rad``, ``patch_px``,
    ``binning`` and ``patches_per_image``; its augmentation and its loaders are not used.

    Args:
        phase_images: the other data module.
        class_names: its cell types, without the background; None takes them.
        image_px: side S of the network's input; None: a patch's, binned.
        in_channels: 1, the phase; stated for the networks, which read it.
        augment: keys of ``two_crops.TwoCropAugmentation``; None takes ``two_crops.PHASE_SAFE``.
        augment_on, batch_size, num_workers, seed: see :class:`hemolens.data.modules.two_crops.TwoCropDataModule`.

    Raises:
        UserError: bad arguments here; what cannot be read or made in ``prepare_data``.
    """

    def __init__(
        self,
        *,
        phase_images: PhaseImageDataModule,
        class_names: Sequence[str] | None = None,
        image_px: int | None = None,
        in_channels: int = 1,
        augment: Annotated[Mapping[str, Any] | None, TwoCropAugmentation] = None,
        augment_on: str = "loader",
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        if not isinstance(phase_images, PhaseImageDataModule):
            raise UserError(
                f"data.phase_images is a {type(phase_images).__name__}: give a data set of phase images, e.g. the "
                "settings of data=sim_holograms"
            )
        types = phase_images.class_names[1:]
        if class_names is not None and tuple(class_names) != types:
            raise UserError(f"data.class_names={list(class_names)}: the types of data.phase_images are {list(types)}")
        if in_channels != 1:
            raise UserError(f"data.in_channels={in_channels}: a phase image has 1")
        if phase_images.synthetic_dir is not None:
            raise UserError("data.phase_images.synthetic_dir is not used here: set it to null")
        low, high = phase_images.spec.phase_limits_rad
        self.patch_side = phase_images.patch_px // phase_images.binning
        augmentation = PHASE_SAFE if augment is None else TwoCropAugmentation.from_config(augment)
        image_px = self.patch_side if image_px is None else image_px
        super().__init__(
            class_names=types,
            two_crops=TwoCrops(augmentation, image_px=image_px, units_per_rad=2 / (high - low)),
            in_channels=in_channels,
            validates=phase_images.split[1] > 0,
            augment_on=augment_on,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.phase_images = phase_images
        self.limits: tuple[str, ...] = getattr(phase_images, "limits", ())

    @staticmethod
    def capped(config: dict[str, Any], *, batch_size: int, image_px: int, num_workers: int) -> dict[str, Any]:
        """Constructor arguments for a quick trial: that of the other data set, and input of at most ``image_px``."""
        module, _, name = config["phase_images"]["_target_"].rpartition(".")
        limits = {"batch_size": batch_size, "image_px": image_px, "num_workers": num_workers}
        images = getattr(import_module(module), name).capped(config["phase_images"], **limits)
        side = config["image_px"]
        return config | {
            "phase_images": images,
            "image_px": None if side is None else min(side, image_px),
            "batch_size": min(batch_size, config["batch_size"]),
            "num_workers": num_workers,
        }

    def prepare_data(self) -> None:
        """Make what the other data set's cache does not hold (Lightning calls this in one process)."""
        self.phase_images.prepare_data()

    def describe(self, split: str) -> str:
        """One line about a split, e.g. ``159 images, 1,431 patches an epoch``, ``980 patches around cells: ...``."""
        if split == "train":
            return f"{len(self.phase_images.records(split))} images, {self._count(split):,} patches an epoch"
        counts = self.class_counts(split)
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        return f"{self._count(split):,} patches around cells: {listed}"

    def class_counts(self, split: str) -> dict[str, int]:
        """Cells of each type in a split; of training, whose labels are not used, too."""
        return self.phase_images.class_counts(split)

    def input_spec(self) -> dict[str, Any]:
        """How a phase becomes network input, kept in checkpoints: the keys of ``data.segmentation.PhaseSpec``, with the
        pixel of the network's input, and ``in_channels`` and ``image_px``."""
        self.prepare_data()
        spec, side = self.phase_images.spec, self.two_crops.image_px
        if spec.pixel_um is not None and side != self.patch_side:
            spec = replace(spec, pixel_um=spec.pixel_um * self.patch_side / side)
        return spec.to_dict() | {"in_channels": self.in_channels, "image_px": side}

    def _count(self, split: str) -> int:
        records = self.phase_images.records(split)
        if split == "train":
            return len(records) * self.phase_images.patches_per_image
        return sum(len(record.cells) for record in records)

    def _samples(self, split: str) -> tuple[PhaseViews | PhaseCells, None]:
        images = self.phase_images
        cut: dict[str, Any] = {"spec": images.spec, "patch_px": images.patch_px, "binning": images.binning}
        if split != "train":
            return PhaseCells(images.records(split), image_px=self.two_crops.image_px, **cut), None
        cut |= {"patches_per_image": images.patches_per_image}
        return PhaseViews(images.records(split), **cut, **self._drawing()), None
