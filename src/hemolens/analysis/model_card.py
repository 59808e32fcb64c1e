"""The page that goes with a trained network: what it is, what it was measured at, what it is not for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hemolens.io.atomic import atomic_path

_LIMITS = (
    "Measured on the test data named above and on nothing else: other stains, optics, pixel sizes, species "
    "or clinical groups are untested.",
    "Cells must appear at the scale of the training images; the network does not measure the pixel size.",
    "Scores rank what the network says; they are not calibrated probabilities.",
)

_RESEARCH_USE = (
    "For research only. It is not a medical device, was not validated for any clinical purpose and must not "
    "be used to diagnose, monitor or treat."
)


def write_model_card(
    path: str | Path,
    *,
    task: str,
    net: Mapping[str, Any],
    class_names: Sequence[str],
    data: Mapping[str, Any],
    results: str,
    checkpoint: str,
    run: Mapping[str, Any],
    limits: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write the Markdown page of a trained network.

    Args:
        path: file to write.
        task: what the network does, in a few words that start with ``detection``, ``classification``,
            ``segmentation``, ``generation`` or ``pretraining``, e.g. ``detection of blood cells``.
        net: facts of the network, name → text (architecture, parameters, MACs, input).
        class_names: name of label 0, 1, ….
        data: facts of the data, name → value (set, split sizes, boxes a class, whether simulated).
        results: Markdown of the measured results, e.g. ``detection_markdown``.
        checkpoint: file name of the weights beside the page.
        run: facts of the run, name → value (commit, seed, device, date, command).
        limits: known limits of this network, before the general ones.
        overwrite: replace an existing page.

    Raises:
        UserError: ``path`` exists and ``overwrite`` is false; disk full.
    """
    sections = {
        "What it is": f"A network for {task}. Classes: {', '.join(class_names)}.\n\n{_facts(net)}",
        "Training data": _facts(data),
        "Measured results": f"On the test split, with the weights of `{checkpoint}`.\n\n{results}",
        "Limits": _items([*limits, *_LIMITS]),
        "Intended use": _RESEARCH_USE,
        "How to use it": _usage(checkpoint, task.partition(" ")[0]),
        "Where it comes from": _facts(run),
    }
    text = f"# Model card: {checkpoint}, {task}\n"
    text += "".join(f"\n## {title}\n\n{body}\n" for title, body in sections.items())
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _facts(facts: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _cell(value: Any) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# What to do with what `predict` gives.
_LOOPS = {
    "detection": """for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
    print(network.class_names[label], score, box)  # box: x1, y1, x2, y2 in pixels of the image""",
    "segmentation": """print(found["classes"].shape)  # class of each pixel; found["instances"] numbers the cells
for label, name in enumerate(network.class_names):
    print(name, (found["classes"] == label).sum())""",
    "classification": """for name, probability in zip(network.class_names, found["probabilities"]):
    print(name, probability)  # found["label"] is the likeliest""",
}


_COMMANDS = {
    "generation": """On the command line, with a mask generator trained on the same data:

```sh
hemolens generate phase_ckpt={checkpoint} mask_ckpt=mask.ckpt
```""",
    "pretraining": """To start a segmentation from it (net=resunet18 has the encoder and decoder of net=moco_resnet18):

```sh
hemolens train data=sim_holograms model=segmentation net=resunet18 net.init_from={checkpoint}
```""",
}

_IMAGE = 'field.png")  # or an array [H, W] or [H, W, 3]'
_EXAMPLES = {
    "detection": _IMAGE,
    "classification": _IMAGE,
    "segmentation": 'phase.ome.tif")  # or an array [H, W] in rad',
}


def _usage(checkpoint: str, task: str) -> str:
    if task in _COMMANDS:
        return _COMMANDS[task].format(checkpoint=checkpoint)
    loop = _LOOPS[task]
    return f"""In Python:

```python
import hemolens

network = hemolens.load("{checkpoint}")
found = network.predict("{_EXAMPLES[task]}
{loop}
```

On the command line, for one file or a folder of files:

```sh
hemolens predict ckpt_path={checkpoint} input=images/
```"""
