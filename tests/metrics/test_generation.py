"""Distances of generated images against literal transcriptions, closed forms and other packages."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import avg_pool2d, interpolate
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from hemolens.errors import UserError
from hemolens.metrics import generation as gen
from hemolens.metrics.generation import GenerationScores


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(seed: int, count: int, side: int = 32) -> Tensor:
    """Images without fine structure, float32 [N, 1, side, side] in rad."""
    return interpolate(noise(seed, count, 1, 6, 6).float(), (side, side), mode="bicubic")


def cells(seed: int, count: int, radius: float = 6.0, height: float = 2.0) -> Tensor:
    """Images of one to three round cells on noise, float32 [N, 1, 64, 64] in rad."""
    rng = np.random.default_rng(seed)
    (y, x), images = np.mgrid[:64, :64], rng.normal(0, 0.02, (count, 64, 64))
    for image in images:
        for _ in range(rng.integers(1, 4)):
            (cy, cx), r = rng.uniform(4, 60, 2), radius * rng.uniform(0.8, 1.2)
            image += height * rng.uniform(0.8, 1.2) * ((y - cy) ** 2 + (x - cx) ** 2 < r**2)
    return torch.from_numpy(images)[:, None].float()


def reference(score: type[Metric], real: Tensor, fake: Tensor, **options: int) -> Metric:
    """torchmetrics' own, given features instead of images."""
    through = nn.Identity()
    through.num_features = real.shape[1]
    metric = score(feature=through, **options)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric


def test_frechet_of_normal_distributions() -> None:
    x = noise(0, 500, 1)
    x = (x - x.mean()) / x.std()  # exactly mean 0, variance 1
    assert gen.frechet_distance(3 * x + 1, 0.5 * x - 1) == pytest.approx(2**2 + 2.5**2)
    # uncorrelated features: their distances add up, also after a turn
    z = torch.linalg.qr(noise(1, 400, 3) - noise(1, 400, 3).mean(0))[0] * math.sqrt(399)
    scaled = z * torch.tensor([2.0, 1.0, 0.0]) + torch.tensor([0.0, 3.0, 1.0])
    for turn in (torch.eye(3).double(), torch.linalg.qr(noise(2, 3, 3))[0]):
        assert gen.frechet_distance(z @ turn, scaled @ turn) == pytest.approx(1 + 9 + (1 + 1))


def test_frechet_equals_the_formula_and_torchmetrics() -> None:
    real, fake = noise(0, 60, 5) @ noise(1, 5, 5), noise(2, 50, 5) @ noise(3, 5, 5) + 0.3
    s1, s2 = np.cov(real.numpy(), rowvar=False), np.cov(fake.numpy(), rowvar=False)
    means = float((real.mean(0) - fake.mean(0)).square().sum())
    found = gen.frechet_distance(real, fake)
    assert found == pytest.approx(means + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real))
    assert gen.frechet_distance(fake, real) == pytest.approx(found)
    assert gen.frechet_distance(real.float(), fake.float()) == pytest.approx(found, rel=1e-4)
    assert found == pytest.approx(float(reference(FrechetInceptionDistance, real, fake).compute()))


def test_frechet_of_fewer_samples_than_features() -> None:
    real, fake = noise(0, 8, 40), noise(1, 12, 40) + 1
    a, b = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (real, fake))
    # tr (S1 S2)^½ is the sum of the singular values of A B^T, where S1 = A^T A and S2 = B^T B
    shared = torch.linalg.svdvals(a @ b.T).sum()
    expected = (real.mean(0) - fake.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * shared
    assert gen.frechet_distance(real, fake) == pytest.approx(float(expected), rel=1e-6)
    assert gen.frechet_distance(real, real.flip(0)) == pytest.approx(0, abs=1e-5)
    assert gen.frechet_distance(torch.zeros(3, 40), torch.ones(2, 40)) == pytest.approx(40)


def test_kernel_distance_equals_the_double_loop_and_torchmetrics() -> None:
    real, fake = noise(0, 12, 7), 1.5 * noise(1, 12, 7) + 0.2

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 7 + 1) ** 3

    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    own = sum(kernel(each[i], each[j]) / len(pairs) for each in (real, fake) for i, j in pairs)
    found = gen.kernel_distance(real, fake)
    assert found == pytest.approx(own - 2 * sum(kernel(x, y) for x in real for y in fake) / 144)
    with pytest.warns(UserWarning, match="large memory footprint"):
        peer = reference(KernelInceptionDistance, real, fake, subsets=1, subset_size=12)
    assert found == pytest.approx(float(peer.compute()[0]))


@pytest.mark.parametrize("distance", [gen.frechet_distance, gen.kernel_distance])
def test_bad_features(distance) -> None:
    for fake, message in (
        (noise(1, 1, 4), "of 9 and 1 images: at least 2 of each"),
        (noise(1, 9, 5), r"\[9, 4\] and \[9, 5\]: give \[N, D\] and \[M, D\]"),
        (noise(1, 9, 4).log(), "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            distance(noise(0, 9, 4), fake)


def test_histogram_distance_equals_scipy() -> None:
    real, fake = noise(0, 70, 1, 9, 11), 1.7 * noise(1, 5, 1, 9, 11) - 0.4
    exact = wasserstein_distance(real.flatten(), fake.flatten())
    assert exact > 0.4
    for step in (0.005, 0.1):
        assert gen.histogram_distance(real, fake, step_rad=step) == pytest.approx(exact, abs=step)
    assert gen.histogram_distance(real, real.flip(0)) == 0
    images = smooth(0, 3)
    for shift in (-7.0, 0.25, 40.0):
        assert gen.histogram_distance(images, images + shift) == pytest.approx(abs(shift), abs=1e-4)


def test_bad_images() -> None:
    good = smooth(0, 3)
    broken = good.clone()
    broken[1, 0, 3, 3] = torch.nan
    for distance in (gen.histogram_distance, gen.spectrum_distance, gen.nearest_distances):
        for bad, message in (
            (broken, "image 1 has phases that are not finite"),
            (good[:, 0], r"images \[3, 1, 32, 32\] and \[3, 32, 32\]: give"),
            (good[..., :-1], "one H and W"),
            (good[:0], "one or more"),
            (good.long(), "int64: give phases in rad"),
        ):
            with pytest.raises(UserError, match=message):
                distance(good, bad)
    with pytest.raises(UserError, match="are they in rad"):
        gen.histogram_distance(good, good * 1000)
    with pytest.raises(UserError, match="1×8"):
        gen.radial_power_spectrum(torch.zeros(2, 1, 1, 8))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 20), (20, 13)])
def test_spectrum_equals_the_literal_loop(height: int, width: int) -> None:
    images = noise(0, 70, 1, height, width)  # more than are transformed at a time
    window = np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n) for n in (height, width)))
    side = min(height, width)
    sums, counts = np.zeros(side // 2), np.zeros(side // 2)
    for image in images[:, 0].numpy():
        power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2 / (height * width * (window**2).sum())
        for j, fy in enumerate(np.fft.fftfreq(height)):
            for i, fx in enumerate(np.fft.fftfreq(width)):
                ring = math.floor(math.hypot(fy, fx) * side + 0.5)
                if 1 <= ring <= side // 2:
                    sums[ring - 1] += power[j, i]
                    counts[ring - 1] += 1
    np.testing.assert_allclose(gen.radial_power_spectrum(images), sums / counts, rtol=1e-10)


def test_spectrum_of_a_sine_lies_in_its_ring() -> None:
    image = (0.8 * torch.sin(2 * torch.pi * 10 * torch.arange(64) / 64)).expand(1, 1, 64, 64) + 5
    radius = torch.hypot(torch.fft.fftfreq(64)[:, None] * 64, torch.fft.fftfreq(64) * 64)
    frequencies = torch.stack([((radius + 0.5).floor() == ring).sum() for ring in range(1, 33)])
    # a Hann window leaves 2/3 at the frequency itself and 1/6 at each neighbour, of 0.8² / 2 in all
    expected = 0.32 * torch.tensor([0.0] * 8 + [1 / 6, 2 / 3, 1 / 6] + [0.0] * 21).double()
    for turned in (image, image.transpose(2, 3)):
        power = gen.radial_power_spectrum(turned) * frequencies
        torch.testing.assert_close(power, expected, atol=1e-6, rtol=0)


def test_spectrum_distance_sees_blur_and_scale() -> None:
    real, other = noise(0, 40, 1, 32, 32), noise(1, 40, 1, 32, 32)
    distances = [gen.spectrum_distance(real, avg_pool2d(other, size, 1, size // 2)) for size in (1, 3, 5)]
    assert distances[0] < 0.05 < 0.5 < distances[1] < distances[2]
    assert gen.spectrum_distance(real, real * 10) == pytest.approx(2)  # 100 times the power
    assert gen.spectrum_distance(real, real + 3) == pytest.approx(0, abs=1e-9)
    assert math.isfinite(gen.spectrum_distance(real, torch.zeros(2, 1, 32, 32)))


def test_nearest_distances_equal_the_literal_loop_in_any_chunks() -> None:
    queries, bank = smooth(0, 11), smooth(1, 23)
    small, others = (avg_pool2d(images.double(), 4)[:, 0].numpy() for images in (queries, bank))
    expected = []
    for query in small:
        turned = [np.rot90(image, k) for image in (query, query[:, ::-1]) for k in range(4)]
        expected.append(min(np.sqrt(((image - other) ** 2).mean()) for image in turned for other in others))
    for chunk in (1, 4, 256):
        assert gen.nearest_distances(queries, bank, side=8, chunk=chunk).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("side", [32, 45])  # 45 is no multiple of 16
def test_copies_have_distance_zero(side: int) -> None:
    bank = smooth(0, 20, side) + 3
    copies = [image.rot90(k, (1, 2)) for image in (bank[7], bank[12].flip(2)) for k in range(4)]
    assert gen.nearest_distances(torch.stack(copies), bank).max() < 1e-6
    assert gen.nearest_distances(smooth(1, 20, side) + 3, bank).min() > 0.1
    assert gen.nearest_distances(bank[7:8] + 0.25, bank[7:8]).item() == pytest.approx(0.25, abs=1e-6)


def test_cell_distances_by_hand() -> None:
    real, fake = torch.zeros(2, 1, 40, 40), torch.zeros(1, 1, 40, 40)
    real[0, 0, 5:15, 5:15] = 2.0  # 100 px
    real[0, 0, 0:9, 20:29] = 9.0  # touches the border
    real[0, 0, 30:32, 30:32] = 9.0  # too small
    real[1, 0, 10:20, 10:20] = real[1, 0, 20:30, 20:30] = 1.0  # meet at a corner: two of 100 px
    real[1, 0, 5:10, 30:35] = 0.5  # not over the threshold
    fake[0, 0, 10:30, 10:20] = 3.0  # 200 px
    found, covered = gen.cell_distances(real, fake, pixel_um=0.5), abs((100 + 81 + 4 + 200) / 3200 - 200 / 1600)
    assert found == pytest.approx({"area_um2": 50 - 25, "mean_phase_rad": 3 - 4 / 3, "covered_share": covered})
    smaller = gen.cell_distances(real, fake, pixel_um=0.5, min_area_um2=0.9)
    assert smaller["area_um2"] == pytest.approx(50 - (3 * 25 + 1) / 4)
    lower = gen.cell_distances(real, fake, pixel_um=0.5, threshold_rad=0.4)
    assert lower["covered_share"] == pytest.approx(abs(410 / 3200 - 200 / 1600))
    bare = gen.cell_distances(real, torch.zeros_like(fake), pixel_um=0.5)
    assert math.isnan(bare["area_um2"]) and math.isnan(bare["mean_phase_rad"])
    assert bare["covered_share"] == pytest.approx(385 / 3200)


def test_class_fractions_by_hand() -> None:
    real = torch.tensor([[0, 0, 0, 1], [1, 1, 2, 0]])  # 3/4, 1/4, 0
    fake = torch.tensor([1, 2, 3, 3])  # 1/4, 1/4, 1/2
    assert gen.class_fraction_distance(real, fake, 4) == pytest.approx(0.5)
    assert gen.class_fraction_distance(real, real.flip(0), 4) == 0
    assert gen.class_fraction_distance(real.clamp_max(1), torch.tensor([0, 3]), 4) == 1
    assert math.isnan(gen.class_fraction_distance(real, real * 0, 4))
    with pytest.raises(UserError, match="classes 0 to 2"):
        gen.class_fraction_distance(real, fake, 3)


def test_floor_divides_groups_into_disjoint_halves() -> None:
    groups = ["a", "b", "c", "a", "d", "e", "b", "a"]
    seen = []

    def distance(first: Tensor, second: Tensor) -> float:
        halves = [{groups[n] for n in half.tolist()} for half in (first, second)]
        assert not halves[0] & halves[1]
        assert [len(half) for half in halves] == [2, 3]
        assert sorted(torch.cat([first, second]).tolist()) == list(range(8))
        seen.append(frozenset(halves[0]))
        return float(len(seen))

    assert gen.floor_of(distance, torch.arange(8), groups, splits=12) == pytest.approx(sum(range(1, 13)) / 12)
    assert len(set(seen)) > 4
    for seed in (0, 1):
        gen.floor_of(distance, torch.arange(8), groups, splits=12, seed=seed)
    assert seen[:12] == seen[12:24] != seen[24:]


def test_floor_does_not_depend_on_order_nor_on_global_random_numbers() -> None:
    images, groups = smooth(0, 24), torch.arange(24) // 2
    expected, before = gen.floor_of(gen.histogram_distance, images, groups), torch.get_rng_state()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    assert gen.floor_of(gen.histogram_distance, images[order], groups[order]) == pytest.approx(expected)
    assert gen.floor_of(gen.histogram_distance, images, groups.tolist()) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_floor_is_small_beside_a_true_distance() -> None:
    images, groups = smooth(0, 60), [n // 2 for n in range(60)]
    for distance in (gen.histogram_distance, gen.spectrum_distance):
        assert 0 < gen.floor_of(distance, images, groups) < distance(images, noise(1, 60, 1, 32, 32)) / 2
    same = smooth(5, 1).expand(8, -1, -1, -1)  # halves that are equal
    assert gen.floor_of(gen.histogram_distance, same, range(8)) == 0
    for bad, message in (([0] * 60, "at least 2 groups"), (groups[:-1], "60 images, 59 entries")):
        with pytest.raises(UserError, match=message):
            gen.floor_of(gen.histogram_distance, images, bad)


NETWORK = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.BatchNorm1d(16)).eval()  # has parameters and buffers
# Real patches, generated ones of larger and higher cells, and the sources of the real ones.
REAL, FAKE, GROUPS = cells(0, 90), cells(1, 70, radius=7.5, height=2.4), torch.arange(90) // 9


def scores_of(*batches: tuple[Tensor, Tensor, Tensor], **kwargs) -> GenerationScores:
    metric = GenerationScores(**({"features": NETWORK, "pixel_um": 0.3, "splits": 5} | kwargs))
    for batch in batches:
        metric.update(*batch)
    return metric


def test_metric_equals_the_functions() -> None:
    found = scores_of((REAL, FAKE, GROUPS)).compute()
    features = [NETWORK(images).detach() for images in (REAL, FAKE)]
    distances = {
        "histogram_rad": (gen.histogram_distance, REAL, FAKE),
        "spectrum_decades": (gen.spectrum_distance, REAL, FAKE),
        "frechet": (gen.frechet_distance, *features),
        "kernel": (gen.kernel_distance, *features),
    }
    for name in gen.CELL_SCORES:
        distances[name] = (lambda a, b, name=name: gen.cell_distances(a, b, pixel_um=0.3)[name], REAL, FAKE)
    expected = {"samples": 90.0}
    for name, (distance, first, second) in distances.items():
        expected[name] = distance(first, second)
        expected[f"{name}_floor"] = gen.floor_of(distance, first, GROUPS, splits=5)
    over = [expected[name] / expected[f"{name}_floor"] for name in gen.COMPARED]
    expected["over_floor"] = math.exp(sum(map(math.log, over)) / 5)
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(type(value) is float for value in found.values())
    assert found["over_floor"] > 1.5
    plain = scores_of((REAL, FAKE, GROUPS), features=None, pixel_um=None).compute()
    names = {f"{name}{end}" for name in ("histogram_rad", "spectrum_decades") for end in ("", "_floor")}
    assert plain.keys() == names | {"over_floor", "samples"}
    assert plain["over_floor"] == pytest.approx(math.sqrt(over[0] * over[1]), rel=1e-5)


def test_as_good_as_real_is_near_the_floor() -> None:
    assert 0.2 < scores_of((REAL, cells(2, 90), GROUPS)).compute()["over_floor"] < 1.5
    assert scores_of((REAL, REAL, GROUPS)).compute()["over_floor"] == pytest.approx(0, abs=1e-6)
    same = REAL[:1].expand(6, -1, -1, -1)  # all floors are 0
    assert 1 < scores_of((same, same + 1, torch.arange(6))).compute()["over_floor"] < math.inf


def test_parts_in_any_order_and_merged_equal_one_update() -> None:
    expected = pytest.approx(scores_of((REAL, FAKE, GROUPS)).compute(), rel=1e-6)
    first, second = (REAL[:37], FAKE[:60], GROUPS[:37]), (REAL[37:], FAKE[60:], GROUPS[37:])
    assert scores_of(first, second).compute() == expected
    assert scores_of(second, first).compute() == expected
    merged = scores_of(second)
    for other in (scores_of(first), scores_of()):
        merged.merge_state(other)
        merged._computed = None
        assert merged.compute() == expected
    merged.reset()
    merged.update(REAL, FAKE, GROUPS)
    assert merged.compute() == expected


def test_what_is_kept_is_a_copy_and_bounded() -> None:
    expected = scores_of((REAL[:40], FAKE[:40], GROUPS[:40])).compute()
    metric = scores_of(max_images=40)
    for chosen in (slice(0, 30), slice(30, 60), slice(60, 90)):
        batch = REAL[chosen].clone()
        metric.update(batch, FAKE[chosen], GROUPS[chosen])
        batch.zero_()
    assert metric.compute() == expected
    assert expected["samples"] == 40
    assert sum(part.numel() for part in metric.real) == 40 * 64 * 64
    more = scores_of((REAL[:30], FAKE[:30], GROUPS[:30]))
    late = scores_of((REAL[30:], FAKE[30:], GROUPS[30:]), max_images=40)
    late.merge_state(more)  # as processes that together hold more than the limit
    assert late.compute() == expected
    for name in ("real", "fake", "groups"):  # what torchmetrics gathers also from a process without images
        assert {(part.ndim, part.dtype) for part in getattr(metric, name)} == {(1, torch.float32)}


def test_network_is_no_part_of_the_state() -> None:
    metric, sizes = scores_of((REAL, FAKE, GROUPS)), []
    hook = NETWORK.register_forward_hook(lambda *seen: sizes.append(-1 if seen[2].requires_grad else len(seen[2])))
    expected = metric.compute()
    hook.remove()
    assert sizes == [64, 26, 64, 6]  # each image once, in small batches, without gradients
    task = nn.Sequential(metric)
    assert not list(task.parameters()) and not list(metric.children()) and not task.state_dict()
    assert copy.deepcopy(task)[0]._features[0] is metric.clone()._features[0] is NETWORK
    assert pickle.loads(pickle.dumps(scores_of((REAL, FAKE, GROUPS)))).compute() == expected


def test_refused_updates_change_nothing_and_too_little_is_refused() -> None:
    metric = scores_of((REAL, FAKE, GROUPS))
    expected = metric.compute()
    for *bad, message in (
        (REAL, FAKE, GROUPS[:-1], "give one for each"),
        (REAL, FAKE, GROUPS - 1, "0 to 2"),
        (REAL, FAKE, GROUPS + 2**24, "0 to 2"),
        (REAL[..., :32, :32], FAKE[..., :32, :32], GROUPS, r"\[32, 32\] after \[64, 64\]"),
        (REAL, FAKE * torch.nan, GROUPS, "not finite"),
    ):
        with pytest.raises(UserError, match=message):
            metric.update(*bad)
    assert metric.compute() == expected
    with pytest.raises(ValueError, match="splits is 0"):
        GenerationScores(splits=0)
    with pytest.raises(UserError, match="no patches"), pytest.warns(UserWarning, match="before the ``update``"):
        scores_of().compute()
    with pytest.raises(UserError, match="at least 2 groups"):
        scores_of((REAL, FAKE, GROUPS * 0)).compute()


def run_rank(rank: int, rendezvous: str, expected: dict[str, float]) -> None:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    for stop in (31, 90):  # the second time a process without images
        mine = slice(0, stop) if rank == 0 else slice(stop, 90)
        metric = scores_of(*[(REAL[mine], FAKE[mine], GROUPS[mine])][: mine.stop - mine.start])
        for _ in range(2):
            assert metric.compute() == pytest.approx(expected, rel=1e-6)
            metric._computed = None  # gather again: the local state must have survived
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # spawned processes import metrics.<this module>
    expected = scores_of((REAL, FAKE, GROUPS)).compute()
    spawn(run_rank, args=(f"file://{tmp_path / 'rendezvous'}", expected), nprocs=2)
