"""``hemolens export``: a checkpoint's network as ONNX or OpenVINO, checked against the network itself."""

from collections.abc import Sequence

from omegaconf import DictConfig

from hemolens.cli.app import run_verb


def main(arguments: Sequence[str]) -> int:
    """Run the verb; see :func:`hemolens.cli.app.run_verb` for exit codes."""
    return run_verb("export", arguments, export)


def export(cfg: DictConfig) -> None:
    """Export the network of ``cfg.ckpt_path`` and say where it is and how far it is from the original."""
    from hemolens.cli.run_guard import resolved
    from hemolens.inference.export import export_checkpoint

    config = resolved(cfg)
    settings = {key: config[key] for key in ("format", "size", "opset")}
    made = export_checkpoint(config["ckpt_path"], config["output"], **settings)
    time, worst = made["time"], made["parity"]["worst_relative_rms"]
    varying = ", ".join(made["varying"]) or "nothing"
    count = len(made["outputs"])
    print(
        f"{made['output']}: {made['bytes'] / 1e6:.1f} MB, {count} output{'s' * (count > 1)}, {varying} may vary; "
        f"relative rms difference at most {worst:.1g}; {time['runtime_over_eager']:.2f} of torch's time "
        f"({time['threads']} thread{'s' * (time['threads'] > 1)})"
    )
