"""Two augmented crops: against torchvision's pipeline, crop and target, phases that stay, one by one and in batches."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hemolens.cli.app import config_dir
from hemolens.data import two_crops
from hemolens.data.two_crops import (
    MOCO_V2,
    PHASE_SAFE,
    Change,
    TwoCropAugmentation,
    TwoCrops,
    blur,
    blur_batch,
    draw_colour,
    draw_window,
    hue_rotation,
)
from hemolens.errors import UserError

SIDE = 48
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def smooth_picture(height: int = 180, width: int = 200) -> Tensor:
    """uint8 [3, H, W]: a violet cell on pink, without noise, so that resizing hardly changes it."""
    y, x = np.mgrid[:height, :width]
    cell = np.exp(-((((y - 90) / 60) ** 2 + ((x - 100) / 55) ** 2) ** 2)) * (0.8 + 0.2 * np.sin(x / 9) * np.sin(y / 11))
    picture = (1 - cell[..., None]) * (0.7, 0.6, 0.65) + cell[..., None] * (0.45, 0.25, 0.6)
    return torch.from_numpy((picture * 255).astype(np.uint8)).permute(2, 0, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def statistics(views: Tensor) -> dict[str, Tensor]:
    """Of float32 [N, 3, S, S]: pixel values, channel means of single images, power by spatial frequency."""
    power = torch.fft.fft2(views - views.mean((-2, -1), keepdim=True)).abs() ** 2
    along = torch.fft.fftfreq(views.shape[-1]) * views.shape[-1]
    radius = (along[:, None] ** 2 + along**2).sqrt().round().long().flatten()
    spectrum = torch.zeros(views.shape[-1]).index_add(0, radius, power.mean((0, 1)).flatten())
    return {
        "means": views.mean((0, 2, 3)),
        "deviations": views.std((0, 2, 3)),
        "deviations of the means": views.mean((2, 3)).std(0),
        "spectrum": spectrum[1 : views.shape[-1] // 2],
    }


# Other seeds gave up to 0.16 and 0.18. Hue is another operation here: torchvision shifts that of HSV.
@pytest.mark.parametrize(("hue", "spectrum"), [(0.0, 0.2), (0.1, 0.25)])
def test_statistics_are_those_of_torchvision(hue: float, spectrum: float) -> None:
    picture, draws, zoom = smooth_picture(), 700, SIDE / 224
    plain = v2.Compose(
        [
            v2.RandomResizedCrop(SIDE, (0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, hue)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.GaussianBlur(5, (0.1 * zoom, 2.0 * zoom))], 0.5),
            v2.RandomHorizontalFlip(),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = statistics(torch.stack([plain(picture.contiguous()) for _ in range(draws)]))
    crops, source = TwoCrops(replace(MOCO_V2, hue=hue), image_px=SIDE), rng(1)
    found = statistics(torch.cat([crops.finished(*crops.draw(picture, source))[0] for _ in range(draws // 2)]))
    # brightness gives an image's mean a spread of 0.14: twice 0.14 / sqrt(700), and two more of them
    torch.testing.assert_close(found["means"], expected["means"], atol=0.03, rtol=0)
    for name in ("deviations", "deviations of the means"):
        torch.testing.assert_close(found[name], expected[name], atol=0, rtol=0.15)
    torch.testing.assert_close(found["spectrum"], expected["spectrum"], atol=0, rtol=spectrum)


def test_windows_are_drawn_as_torchvision_draws_them() -> None:
    scale, ratio, source = (0.2, 1.0), (3 / 4, 4 / 3), rng()
    ours = np.array([draw_window((60, 90), source, MOCO_V2) for _ in range(3000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image, transform = torch.zeros(3, 60, 90), v2.RandomResizedCrop(8, scale, ratio)
        drawn = [transform.make_params([image]) for _ in range(3000)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    assert (ours[:, 0] + ours[:, 2]).max() == 60 and (ours[:, 1] + ours[:, 3]).max() == 90 and ours.min() == 0
    for statistic in (np.mean, np.std):
        np.testing.assert_allclose(statistic(ours, axis=0), statistic(theirs, axis=0), rtol=0.06, atol=0.3)
    # an image that no allowed window fits into: its middle, as near to the ratio as can be
    assert draw_window((10, 100), rng(), replace(MOCO_V2, crop_scale=(1.0, 1.0))) == (0, 43, 10, 13)
    assert draw_window((61, 60), rng(), TwoCropAugmentation()) == (0, 0, 60, 60)


def applied(crop: Tensor, colour: Any) -> Tensor:
    matrix = torch.from_numpy(colour)
    return torch.einsum("dc,chw->dhw", matrix[:, :-1], crop) + matrix[:, -1:, None]


@pytest.mark.parametrize(
    ("amounts", "adjust"),
    [
        ({"brightness": 0.4}, F.adjust_brightness),
        ({"contrast": 0.4}, F.adjust_contrast),
        ({"saturation": 0.4}, F.adjust_saturation),
    ],
)
def test_each_colour_change_is_torchvisions(amounts: dict[str, float], adjust: Callable[..., Tensor]) -> None:
    crop = 0.3 + 0.3 * torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))  # no value leaves [0, 1]
    name = next(iter(amounts))
    colour = draw_colour(crop, rng(3), TwoCropAugmentation(jitter=1.0, **amounts))
    source = rng(3)
    source.random(2)
    factors = dict(zip(("brightness", "contrast", "saturation"), source.uniform(size=3), strict=True))
    expected = adjust(crop, 0.6 + 0.8 * factors[name])
    torch.testing.assert_close(applied(crop, colour), expected, atol=2e-4, rtol=0)  # luma of 0.299, there 0.2989


def test_hue_turns_about_the_grey_axis() -> None:
    crop = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1))
    third = torch.einsum("dc,chw->dhw", torch.from_numpy(hue_rotation(2 * math.pi / 3)).float(), crop)
    torch.testing.assert_close(third, F.adjust_hue(crop, 1 / 3), atol=1e-5, rtol=0)  # red becomes green in both
    turn = hue_rotation(0.4)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ np.ones(3), 1, atol=1e-12)
    np.testing.assert_allclose(turn @ hue_rotation(-0.4), np.eye(3), atol=1e-12)


def test_colours_are_lost_and_values_stay_in_range() -> None:
    picture = smooth_picture()
    crops = TwoCrops(TwoCropAugmentation(greyscale=1.0), image_px=SIDE)
    views, targets = crops.finished(*crops.draw(picture, rng()))
    torch.testing.assert_close(views[0], F.rgb_to_grayscale(targets[0], 3), atol=1e-3, rtol=0)
    strong = TwoCropAugmentation(jitter=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    crops, source = TwoCrops(strong, image_px=SIDE), rng()
    views = torch.stack([crops.finished(*crops.draw(picture, source))[0] for _ in range(20)])
    assert views.min() >= 0 and views.max() <= 1 and (views == 1).any()


@pytest.mark.parametrize("sd", [0.2, 0.7, 2.0])
def test_the_blur_is_gaussian(sd: float) -> None:
    crop = smooth_picture()[:, 40:80, 60:100] / 255
    crop = crop + 0.1 * torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    expected = F.gaussian_blur(crop, [23, 23], [sd, sd])
    torch.testing.assert_close(blur(crop, sd), expected, atol=2e-3, rtol=0)  # which ends at 11 pixels, ours at 3 sd
    both = blur_batch(torch.stack([crop, crop]), torch.tensor([sd, 0.0]), radius=6)
    torch.testing.assert_close(both[0], blur(crop, sd), atol=1e-6, rtol=0)
    torch.testing.assert_close(both[1], crop, atol=1e-6, rtol=0)


def test_the_blur_follows_the_size_of_the_view() -> None:
    picture, how = smooth_picture(), TwoCropAugmentation(blur=1.0, blur_px=(1.5, 1.5))
    for side in (224, 56):
        (change, _) = TwoCrops(how, image_px=side).draw(picture, rng())[1]
        assert change == Change(None, 1.5 * side / 224, None)


def test_targets_have_the_geometry_of_the_views() -> None:
    picture = smooth_picture()
    shapes = replace(MOCO_V2, jitter=0.0, greyscale=0.0, blur=0.0, vertical_flip=0.5, rotate90=0.75)
    for channels in (3, 1):
        scale = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
        still = TwoCrops(shapes, image_px=SIDE, **scale)
        views, targets = still.finished(*still.draw(picture[:channels], rng(5)))
        assert views.shape == targets.shape == (2, channels, SIDE, SIDE) and views.dtype == torch.float32
        assert torch.equal(views, targets) and views.data_ptr() != targets.data_ptr()
        assert not torch.equal(views[0], views[1])
    changed = TwoCrops(MOCO_V2, image_px=SIDE)
    plain = TwoCrops(replace(MOCO_V2, jitter=0.0, greyscale=0.0, blur=0.0), image_px=SIDE)
    for seed in range(5):  # the crops are drawn first, so that what follows does not move them
        targets = changed.finished(*changed.draw(picture, rng(seed)))[1]
        assert torch.equal(targets, plain.finished(*plain.draw(picture, rng(seed)))[0])


def test_flips_and_turns_reach_all_eight_positions() -> None:
    picture = smooth_picture()[:, :SIDE, :SIDE]
    how = TwoCropAugmentation(horizontal_flip=0.5, vertical_flip=0.5, rotate90=0.75)
    crops, source, seen = TwoCrops(how, image_px=SIDE), rng(), set()
    for _ in range(40):
        for crop in crops.draw(picture, source)[0]:
            seen.add(
                next(
                    (turns, flip)
                    for turns in range(4)
                    for flip in (False, True)
                    if torch.equal(torch.rot90(picture.flip(-1) if flip else picture, turns, (-2, -1)), crop)
                )
            )
    assert len(seen) == 8


def phase_image() -> Tensor:
    """float32 [1, 64, 64] in [-1, 1]: a cell on a background of -0.6."""
    y, x = np.mgrid[:64, :64]
    cell = np.exp(-((((y - 30) / 12) ** 2 + ((x - 34) / 12) ** 2) ** 2))
    return torch.from_numpy((-0.6 + 1.2 * cell).astype(np.float32))[None]


def test_phases_keep_background_and_sign() -> None:
    image = phase_image()
    crops, source = TwoCrops(PHASE_SAFE, image_px=56, units_per_rad=1 / 3), rng()
    for _ in range(30):
        views, targets = crops.finished(*crops.draw(image, source))
        for view, target in zip(views, targets, strict=True):
            background = target < -0.59999
            assert background.any()
            assert (view[background] + 0.6).abs().median() < 1e-5 and view.min() > -0.60001
            assert view.max() > 0.5 and view.max() < 0.60001  # no cell turns into a hole
            assert np.corrcoef(view.flatten(), target.flatten())[0, 1] > 0.99
        flat = crops.finished(*crops.draw(torch.full((1, 64, 64), -0.6), source))[0]
        torch.testing.assert_close(flat, torch.full_like(flat, -0.6), atol=1e-5, rtol=0)


def test_phase_noise_and_offset_have_the_size_asked_for() -> None:
    flat = torch.full((1, 64, 64), -0.2)
    shifted = TwoCrops(TwoCropAugmentation(offset=1.0, offset_rad=0.3), image_px=16, units_per_rad=1 / 3)
    source = rng()
    means = torch.cat([shifted.finished(*shifted.draw(flat, source))[0].mean((1, 2, 3)) for _ in range(200)])
    assert -0.3 < means.min() < -0.28 and -0.12 < means.max() < -0.1  # -0.2, and up to 0.3 rad of a third each
    noisy = TwoCrops(TwoCropAugmentation(noise=1.0, noise_rad=0.3), image_px=64, units_per_rad=1 / 3)
    made, targets = zip(*(noisy.finished(*noisy.draw(flat, source)) for _ in range(60)), strict=True)
    spread = torch.cat(made).std((1, 2, 3))
    assert spread.min() < 0.01 and 0.09 < spread.max() < 0.102 and abs(spread.mean() - 0.05) < 0.01
    assert all((target + 0.2).abs().max() < 1e-5 for target in targets)
    edge = noisy.finished(*noisy.draw(torch.full((1, 64, 64), -1.0), source))[0]
    assert edge.min() >= -1


@pytest.mark.parametrize("kind", ["uint8", "float", "grey", "phase"])
def test_a_batch_is_its_crops(kind: str) -> None:
    how, image, scale = MOCO_V2, smooth_picture(), IMAGENET
    if kind == "float":
        image = image / 255
    if kind == "grey":
        image, scale = image[:1], {"mean": (0.5,), "std": (0.2,)}
    if kind == "phase":
        image, scale = phase_image(), {"units_per_rad": 1 / 3}
        how = replace(PHASE_SAFE, noise=0.5, offset=0.5)
    crops, source = TwoCrops(how, image_px=SIDE, **scale), rng()
    drawn = [crops.draw(image, source) for _ in range(8)]
    cut = [crop for one in drawn for crop in one[0]]
    changes = [change for one in drawn for change in one[1]]
    assert len({change.blur_px for change in changes}) > 4
    assert kind != "phase" or {change.noise is None for change in changes} == {False, True}
    views, targets = crops.finished(cut, changes)
    channels = len(image)
    same = np.eye(channels, channels + 1, dtype=np.float32)
    colour = np.stack([same if change.colour is None else change.colour for change in changes])
    sd = torch.tensor([change.blur_px for change in changes])
    given = torch.stack(cut)
    before = given.clone()
    found = crops.finished_batch(given, torch.from_numpy(colour), sd, noise=[change.noise for change in changes])
    assert torch.equal(given, before)
    torch.testing.assert_close(found[0], views, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[1], targets, atol=1e-6, rtol=0)


def test_a_view_of_few_pixels_is_blurred_within_it() -> None:
    crops = TwoCrops(TwoCropAugmentation(blur=1.0, blur_px=(90.0, 90.0)), image_px=5)
    assert crops.finished(*crops.draw(smooth_picture(), rng()))[0].isfinite().all()
    assert two_crops.blur(torch.ones(1, 1, 1), 2.0).item() == 1


@pytest.mark.parametrize(("name", "preset"), [("unlabelled", MOCO_V2), ("sim_hologram_views", PHASE_SAFE)])
def test_the_configs_hold_the_presets(name: str, preset: TwoCropAugmentation) -> None:
    content: Any = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "data" / f"{name}.yaml"))
    found = TwoCropAugmentation.from_config(content["augment"])
    assert replace(found, crop_ratio=preset.crop_ratio) == preset
    assert found.crop_ratio == pytest.approx(preset.crop_ratio)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flip": 0.5}, "augment has no key flip: choose from crop_scale, crop_ratio"),
        ({"jitter": 1.2}, r"augment\.jitter=1\.2: give a probability"),
        ({"crop_scale": [0.5, 1.5]}, r"augment\.crop_scale=\[0\.5, 1\.5\]: a crop holds at most 1"),
        ({"crop_scale": [0.5, 0.2]}, r"give \[lowest, highest\]"),
        ({"blur_px": [0.0, 2.0]}, "both above 0"),
        ({"brightness": -0.1}, "must not be negative"),
        ({"hue": 0.7}, "from 0 to 0.5"),
    ],
)
def test_slips_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TwoCropAugmentation.from_config(changes)


def test_changes_of_colour_and_of_phase_are_kept_apart() -> None:
    for name in ("jitter", "greyscale"):
        with pytest.raises(UserError, match=rf"augment\.{name}=0\.5 is not for phase images: set it to 0"):
            TwoCrops(TwoCropAugmentation(**{name: 0.5}), image_px=8, units_per_rad=1.0)
    with pytest.raises(UserError, match=r"augment\.noise=0\.5 is not for coloured images"):
        TwoCrops(TwoCropAugmentation(noise=0.5), image_px=8)
    with pytest.raises(UserError, match="image_px=0"):
        TwoCrops(MOCO_V2, image_px=0)
    with pytest.raises(UserError, match="normalize needs mean and std"):
        TwoCrops(MOCO_V2, image_px=8, mean=(0.5,))
