"""``hemolens <verb>``: answers help at once, without importing torch, and hands over to the verb's module."""

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

VERBS = {
    "simulate": "make tomograms or holograms with known truth, in instrument file formats",
    "reconstruct": "off-axis holograms in; quantitative phase images (OME-TIFF) and their quality out",
    "check": "beads of known size, or repeated fields, in; what the instrument does to them out",
    "train": "fit a model, test its best checkpoint, write metrics, figures and a model card",
    "eval": "test a checkpoint on any data module",
    "predict": "images or tomograms in; tables (CSV), COCO JSON, QuPath GeoJSON and overlays out",
    "generate": "synthetic phase images with masks, from two diffusion GANs; chosen, turned and mirrored",
    "export": "a checkpoint's network as ONNX or OpenVINO, checked against the network itself",
    "report": "a paper's tables and figures from finished runs, as one HTML page and as files",
    "new-experiment": "a commented experiment file of your own, made from one that there is",
    "doctor": "what this machine has and what stands in the way: versions, devices, folders, W&B; advice for each",
    "completion": "a script for bash, zsh or fish that completes verbs, groups, choices and keys",
    "collect": "a sweep's or many runs' results as a tidy CSV, a Markdown table and a page that compares them",
}

USAGE = """\
hemolens: label-free hematology from refractive-index tomograms and holograms

usage: hemolens <verb> [options] [key=value ...]

verbs:
{verbs}

`hemolens <verb> --help` lists what a verb takes; `hemolens --version` prints the version.
Examples:
  hemolens simulate output=tomograms/ data.n_samples=3 data.fields_per_sample=2
  hemolens reconstruct input=holograms/ output=phases/ wavelength_um=0.666 pixel_um=0.144
  hemolens train experiment=det_fcos_r18_pafpn_bccd
  hemolens train -m experiment=det_fcos_r18_pafpn_tomogram_quick seed=0,1,2
  hemolens predict ckpt_path=outputs/.../checkpoints/best.ckpt input=my_images/
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code (0 well, 1 a run failed, 2 wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:<16}{what}" for name, what in VERBS.items())
        print(USAGE.format(verbs=verbs), end="")
        return 0
    if arguments[0] == "--version":
        print(f"hemolens {version('hemolens')}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=2) or list(VERBS)
        print(
            f"hemolens: no verb '{verb}'; did you mean {' or '.join(near)}? (`hemolens --help`)",
            file=sys.stderr,
        )
        return 2
    if not os.environ.get("PYTHONWARNINGS"):  # third-party deprecations are ours to read, not the user's
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
    module = importlib.import_module(f"hemolens.cli.{verb.replace('-', '_')}")
    code: int = module.main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
