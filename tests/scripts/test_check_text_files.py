import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_text_files.py"


def check(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_in_order(tmp_path: Path) -> None:
    contents = {
        "a.yaml": "a: 1\nb: {a: 2}\n",
        "b.toml": "[a]\nb = 1\n",
        "c.json": "{}\n",
        "d.md": "",
        "e.png": "\r",
    }
    paths = [tmp_path / name for name in contents]
    for path, text in zip(paths, contents.values(), strict=True):
        path.write_text(text)
    done = check(*paths)
    assert (done.returncode, done.stdout) == (0, "4 text files in order\n")


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("a.yaml", b"a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        ("a.yml", b"a: [1\n", "does not parse"),
        ("a.toml", b"a = \n", "does not parse"),
        ("a.json", b"{'a': 1}\n", "does not parse"),
        ("a.py", b"x = 1", "does not end with exactly one newline"),
        ("a.py", b"x = 1\n\n", "does not end with exactly one newline"),
        ("a.md", b"a\r\nb\r\n", "carriage returns"),
        ("a.txt", b"\xb5m\n", "not UTF-8"),
    ],
)
def test_finding_names_the_file(tmp_path: Path, name: str, content: bytes, finding: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    done = check(path)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{path}: ")
    assert finding in done.stdout
