"""The form of the words: every slip of a new user gets its line, before Hydra or torch are asked."""

import pytest
from hydra.errors import HydraException

from hemolens.cli.app import register_resolvers
from hemolens.cli.compose import composed
from hemolens.cli.explain import explain_config_error, explain_words
from hemolens.cli.places import config_dir

CONFIGS = str(config_dir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--lr", "0.1"], "settings are key=value without dashes, e.g. optimizer.lr=0.1"),
        (["--seed=1"], "e.g. seed=1"),
        (["--max-epochs", "3"], "e.g. trainer.max_epochs=3"),
        (["--multrun", "seed=1"], "did you mean --multirun?"),
        (["seed", "=", "1"], "write it without spaces, seed=1"),
        (["seed=", "1"], "write it without a space, seed=1"),
        (["seed=0,", "1"], "'seed=0, 1': write a list without spaces, seed=0,1"),
        (["seed", "=1"], "write it without spaces, seed=1"),
        (["demo"], "'demo' wants its group: experiment=demo"),
        (["experiment", "demo"], "experiment=demo"),
        (["trainer.max_epochs:3"], "trainer.max_epochs=3"),
        (["nonsense"], "'nonsense' has no value"),
    ],
)
def test_words_of_a_wrong_form(words: list[str], line: str) -> None:
    found = explain_words(words, CONFIGS, "train")
    assert found is not None and line in found


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=0,1"],
        ["--config-dir", "mine", "experiment=mine"],
        ["--config-dir=mine", "seed=1"],
        ["--cfg", "job", "--resolve", "seed=1"],
        ["~callbacks.ema", "+trainer.x=1", "++seed=2", "data.root="],
        ["-sc", "install=bash"],
    ],
)
def test_right_words(words: list[str]) -> None:
    assert explain_words(words, CONFIGS, "train") is None


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("seed=0,1", "add -m to run one job for each, or write seed=[0,1]"),
        ("experiment=configs/experiment/demo.yaml", "experiment takes a name, not a file: experiment=demo"),
        ("experiment=mine/own.yaml", "put own.yaml into <folder>/experiment/ and say --config-dir <folder>"),
        ("task_name=a(b)", "it wants quotes of its own: 'task_name=\"a(b)\"'"),
        ("task_name=a=b", "wants quotes of its own"),
        ("+seed=1", "'seed' is there already: leave out the +"),
        ("~net.necks", "no config key 'net.necks' to take out; did you mean net.neck"),
        ("batch_size=2", "did you mean data.batch_size?"),
        ("net=fcos_r50_fnp", "did you mean fcos_r50_fpn"),
    ],
)
def test_what_hydra_refuses(word: str, line: str) -> None:
    register_resolvers()
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with pytest.raises(HydraException) as caught:
        if OverridesParser.create().parse_overrides([word])[0].is_sweep_override():
            from hydra import main as hydra_main  # noqa: F401

            raise HydraException(f"Ambiguous value for argument '{word}'")
        composed(CONFIGS, "train", [word])
    assert line in explain_config_error(caught.value, CONFIGS, "train", (), [word])
