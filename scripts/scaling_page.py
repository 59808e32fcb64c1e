"""The tables and the figure of docs/scaling.md: from the measured results, and on paper (see measure_scaling.py)."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from measure_scaling import EXPERIMENTS, FAMILIES, MB, Kept, config_of, task_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hemolens.analysis.figures import save_figure
from hemolens.cli.build import count_macs
from hemolens.errors import UserError
from hemolens.io.atomic import atomic_path

# One H200, of the vendor's data sheet: dense bfloat16, and its NVLink in one direction; a share of the first that
# convolutional networks reach; a network card between machines.
PEAK_FLOPS, SHARE, NVLINK, NETWORK = 989.4e12, 0.3, 450e9, 12.5e9
DEVICES = 8
SIDES = dict(zip(FAMILIES, (1024, 256, 256, 224), strict=True))
BATCHES = dict(zip(FAMILIES, (4, 16, 4, 64), strict=True))
BYTES = {"adam": 16, "sgd": 12}  # a parameter: weight, gradient, and two moments or one; float32
COLORS = dict(zip(FAMILIES, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))


def write_page(root: Path) -> None:
    """Put the tables between the page's markers and draw the figure, as far as there are results.

    Raises:
        UserError: a marker is missing.
    """
    page = root / "docs" / "scaling.md"
    text = page.read_text()
    parts = {"paper": paper_table(list(paper_rows()))}
    for device in ("cpu", "cuda"):
        source = root / "results" / f"scaling_{device}.json"
        parts[device] = f"*Not measured yet: `results/{source.name}` is missing.*"
        if source.exists():
            found = json.loads(source.read_text())
            parts[device] = f"{measured_on(found)}\n\n{table(found['rows'])}"
            if device == "cpu":
                save_figure(figure(found["rows"]), root / "docs" / "images" / "scaling.png", overwrite=True)
                parts[device] += f"\n\n![{CAPTION}](images/scaling.png)\n\n{CAPTION}"
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name}: by scripts/measure_scaling.py -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise UserError(f"{page.name}: the marker <!-- {name}: by scripts/measure_scaling.py --> is missing")
        text = pattern.sub(lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text)  # type: ignore[misc]
    with atomic_path(page, overwrite=True) as temporary:
        temporary.write_text(text)
    print(f"written: {page}")


CAPTION = (
    "Time and memory of a training step on a CPU against images a step, side of the image, and processes; "
    "dashed: in proportion to the images, or to the pixels."
)


def measured_on(found: dict[str, Any]) -> str:
    """Where the rows come from, in words."""
    git = found["git"]
    commit = f"{(git['commit'] or 'unknown')[:7]}{' with changes' if git['dirty'] else ''}"
    return (
        f"`{found['command']}` at {commit}, torch {found['torch']}, on {found['device']}, {found['threads']} thread(s) "
        f"a process, seed {found['seed']}, load average {found['load_average']} at the start."
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The measured rows as Markdown."""
    lines = [
        "| family | experiment | images a device | side, px | devices | step, ms [quartiles] | images/s | peak, MB | "
        "kept for backward, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        step = row["step_ms"]
        lines.append(
            f"| {row['family']} | `{row['experiment']}` | {row['batch']} | {row['side']} | {row['devices']} | "
            f"{step['median']:,.0f} [{step['q1']:,.0f}, {step['q3']:,.0f}] | {row['images_per_second']:.3g} | "
            f"{row['peak_mb']:,.0f} | {row['kept_mb']:,.0f} |"
        )
    return "\n".join(lines)


def paper_rows() -> Iterator[dict[str, Any]]:
    """Sizes of the large networks, counted on fake tensors, which have shapes and no values."""
    for family, experiment in EXPERIMENTS["cuda"].items():
        side, batch = SIDES[family], BATCHES[family]
        cfg = config_of(experiment, side)
        with torch.device("meta"):
            task = task_of(cfg).train()
        with FakeTensorMode(allow_non_fake_inputs=True):
            task.to_empty(device="cpu")
            inputs = task.example_inputs(torch.zeros(1, task.net.in_channels, side, side))
            with torch.no_grad():
                forward, step = macs_of(family, task, inputs)
            with Kept(list(task.parameters())) as kept:  # two images, since a norm over one pixel wants two
                outputs = forward_of(family, task, [torch.cat([value, value]) for value in inputs])
        del outputs
        trained = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
        moments = BYTES["sgd" if "SGD" in cfg.optimizer._target_ else "adam"]
        passes = 1 if task.automatic_optimization else 2
        compute = 2 * step * batch / (SHARE * PEAK_FLOPS)
        moved = 2 * (DEVICES - 1) / DEVICES * 4 * trained * passes
        yield {
            **{"family": family, "experiment": experiment, "side": side, "batch": batch, "parameters": trained},
            **{"forward_macs": forward, "step_macs": step, "kept_mb": kept.peak / 2 / MB},
            **{"state_mb": moments * trained / MB, "reduced_mb": 4 * trained * passes / MB, "step_ms": 1e3 * compute},
            **{"nvlink_ms": 1e3 * moved / NVLINK, "network_ms": 1e3 * moved / NETWORK},
        }


def macs_of(family: str, task: Any, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Multiply-accumulates of an image: of the network forward, and of a training step.

    A backward pass is two forward ones. A diffusion GAN's step is four of its generator (without a gradient, then with
    one) and eight of its discriminator (real and fake, then the gradient with respect to the image); the penalty, each
    tenth step, is left out. Pretraining is four of the encoder (one of them the momentum encoder's) and six of the
    decoder.
    """
    forward = count_macs(task.net, *inputs)
    if family == "diffusion":
        x, t, _, *condition = inputs
        return forward, 4 * forward + 8 * count_macs(task.discriminator, x, x, t, *condition)
    if family == "pretraining":
        encoder = count_macs(task.net.key_encoder, *inputs)
        return forward, 4 * encoder + 6 * (forward - encoder)
    return forward, 3 * forward


def forward_of(family: str, task: Any, inputs: Sequence[Tensor]) -> Any:
    """What a step computes before a backward pass, of which autograd keeps what it needs."""
    if family == "diffusion":
        _, t, _, *condition = inputs
        made = task.net(*inputs)
        return task.discriminator(made, inputs[0], t, *condition)
    if family == "pretraining":
        queries, maps = task.net.encode(*inputs)
        return queries, task.net.reconstruct(maps), task.net.reconstruct(task.net.encode_keys(*inputs)[1])
    return task.net(*inputs)


def paper_table(rows: Sequence[dict[str, Any]]) -> str:
    """The large networks as Markdown."""
    lines = [
        "| experiment | side, px | parameters, M | forward, GMAC an image | step, GMAC an image | kept, MB an image | "
        "weights, gradients, moments, MB | exchanged a step, MB | images a device | compute, ms | NVLink, ms | "
        "100 Gbit/s, ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        words = [f"`{row['experiment']}`", f"{row['side']}", f"{row['parameters'] / 1e6:.1f}"]
        words += [f"{row['forward_macs'] / 1e9:.1f}", f"{row['step_macs'] / 1e9:.0f}"]
        words += [f"{row[key]:,.0f}" for key in ("kept_mb", "state_mb", "reduced_mb", "batch")]
        words += [f"{row[key]:.1f}" for key in ("step_ms", "nvlink_ms", "network_ms")]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Time and memory over the batch, and time over side and processes."""
    drawn = Figure(figsize=(10, 7.2), dpi=100, layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(2, 2).ravel()
    for family in FAMILIES:
        mine = [row for row in rows if row["family"] == family]
        alone = [row for row in mine if row["devices"] == 1]
        first = mine[0]
        of_batch = sorted((r for r in alone if r["side"] == first["side"]), key=lambda row: row["batch"])
        of_side = sorted((r for r in alone if r["batch"] == first["batch"]), key=lambda row: row["side"])
        label, color = f"{family}, {first['side']} px", COLORS[family]
        for axes, key in ((panels[0], "step_ms"), (panels[1], "kept_mb")):
            values = [value_of(row, key) for row in of_batch]
            axes.plot([row["batch"] for row in of_batch], values, "o-", color=color, label=label)
            ends = [of_batch[0]["batch"], of_batch[-1]["batch"]]
            axes.plot(ends, [values[-1] * end / ends[-1] for end in ends], "--", color=color, linewidth=0.8)
        sides = [row["side"] for row in of_side]
        values = [value_of(row, "step_ms") for row in of_side]
        panels[2].plot(sides, values, "o-", color=color, label=f"{family}, {first['batch']} images")
        ends = [sides[0], sides[-1]]
        panels[2].plot(ends, [values[-1] * (end / ends[-1]) ** 2 for end in ends], "--", color=color, linewidth=0.8)
        several = [r for r in mine if (r["batch"], r["side"]) == (first["batch"], first["side"])]
        several = sorted(several, key=lambda row: row["devices"])
        rates = [row["images_per_second"] / several[0]["images_per_second"] for row in several]
        panels[3].plot([row["devices"] for row in several], rates, "o-", color=color, label=family)
    named = ("images a step", "images a step", "side of the image, px", "processes, the same batch in each")
    for axes, x, y in zip(
        panels,
        named,
        ("step, ms", "kept for the backward pass, MB", "step, ms", "images a second, over one process"),
        strict=True,
    ):
        axes.set(xlabel=x, ylabel=y)
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:3]:
        axes.set(xscale="log", yscale="log")
        ticks = sorted({round(float(x)) for line in axes.lines for x in line.get_xdata()})
        axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    most = max(row["devices"] for row in rows)
    panels[3].plot([1, most], [1, most], "--", color="grey", linewidth=0.8)
    panels[3].set_xticks(range(1, most + 1))
    panels[3].set_ylim(bottom=0)
    return drawn


def value_of(row: dict[str, Any], key: str) -> float:
    """A number of a row; of a time its median."""
    value = row[key]
    return float(value["median"] if isinstance(value, dict) else value)
