"""The sweeps of scripts/wandb_sweep: the agent's commands compose, and their keys and choices exist."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from hemolens.cli.app import compose_config

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "wandb_sweep"
FILES = sorted(FOLDER.glob("*.yaml"))


def draws(parameter: dict[str, Any]) -> list[Any]:
    """What the server may choose: every choice, or both ends."""
    if "value" in parameter:
        return [parameter["value"]]
    if "values" in parameter:
        return list(parameter["values"])
    assert parameter["distribution"] in ("uniform", "log_uniform_values")
    assert 0 <= parameter["min"] < parameter["max"] and (parameter["min"] > 0 or parameter["distribution"] == "uniform")
    return [parameter["min"], parameter["max"]]


def agent_words(content: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """The command of wandb's agent for one draw, with wandb's own macros."""
    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    words: list[str] = []
    for word in create_sweep_command(list(content["command"])):
        words += macros[word[2:-1]] if word.startswith("${") else [word]
    return words


def test_there_is_one_for_each_family() -> None:
    assert [path.stem for path in FILES] == ["ddgan", "detection", "segmentation", "ssl"]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_draw_is_a_command_that_composes(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert set(content["metric"]) == {"name", "goal"} and content["method"] == "bayes"
    choices = {key: draws(parameter) for key, parameter in content["parameters"].items()}
    for number in range(max(map(len, choices.values()))):
        words = agent_words(content, {key: values[number % len(values)] for key, values in choices.items()})
        assert words[:2] == ["hemolens", "train"] and len(words) == 2 + len(choices)
        cfg = compose_config("train", words[2:])
        assert "wandb" in cfg.logger
        for key, values in choices.items():
            if "." in key and isinstance(values[0], int | float):
                assert OmegaConf.select(cfg, key) == pytest.approx(values[number % len(values)])
        if cfg.monitor.metric != "step":
            assert content["metric"]["name"] == cfg.monitor.metric
            assert content["metric"]["goal"] == {"max": "maximize", "min": "minimize"}[cfg.monitor.mode]
