"""The files of docs/clusters.md are what their schedulers read, and do what the text says."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from training import study, tune

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
# Lines as --print-commands writes them, each of which says who it is.
SAYS = "import sys; sys.stdout.write(repr(sys.argv[1:]) + chr(10))"
LINES = [shlex.join([sys.executable, "-c", SAYS, "a study's", str(index)]) for index in range(3)]


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    return str(text)


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    (tmp_path / "commands.txt").write_text("\n".join(LINES) + "\n")
    return tmp_path


def output_of(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_slurm(commands: Path) -> None:
    script = commands / "runs.sbatch"
    script.write_text(block("sh"))
    subprocess.run(["bash", "-n", script], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)", block("sh"), flags=re.MULTILINE)
    assert {"cpus-per-task", "signal", "requeue", "output", "time"} <= set(options)
    # The script starts no job step (srun), and without the B: Slurm signals steps alone.
    assert "srun" not in block("sh")
    assert re.search(r"^#SBATCH --signal=B:TERM@\d+$", block("sh"), flags=re.MULTILINE)
    for index, said in ((1, "0"), (3, "2")):
        task = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_CPUS_PER_TASK": "4"}
        assert output_of(["bash", str(script)], commands, **task) == f"[\"a study's\", '{said}']\n"


def test_kubernetes(commands: Path) -> None:
    job = yaml.safe_load(block("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"  # which gives each pod its number
    assert 1 <= spec["parallelism"] <= spec["completions"]
    printed = re.search(r"study\.py (.*) --print-commands > commands\.txt", TEXT)
    assert printed is not None
    asked = study._parser().parse_args(printed[1].split())
    assert spec["completions"] == len(asked.terms.split(",")) * asked.seeds
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what backoffLimitPerIndex needs
    (container,) = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert all(isinstance(variable["value"], str) for variable in container["env"])
    limits, requests = (container["resources"][name] for name in ("limits", "requests"))
    assert limits["memory"] == requests["memory"]
    mounted = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    for used in (asked.data, container["workingDir"]):
        assert mounted & set(Path(used).parents), f"{used} is in no volume"
    words = [*container["command"], *container["args"]]
    for index in range(3):
        said = output_of(words, commands, JOB_COMPLETION_INDEX=str(index))
        assert said == f"[\"a study's\", '{index}']\n"


@pytest.mark.skipif(find_spec("kubernetes_validate") is None, reason="it is not installed")
def test_kubernetes_accepts_it() -> None:
    import kubernetes_validate

    kubernetes_validate.validate(yaml.safe_load(block("yaml")), "1.31", strict=True)


def test_xargs(commands: Path) -> None:
    (line,) = re.findall(r"^xargs .*?< commands\.txt", TEXT, flags=re.MULTILINE)
    said = output_of(["bash", "-c", line], commands)
    assert sorted(said.splitlines()) == [f"[\"a study's\", '{index}']" for index in range(3)]


def test_the_options_of_the_text_exist() -> None:
    known = {
        option
        for parser in (study._parser(), tune._parser())
        for action in parser._actions
        for option in action.option_strings
    }
    lines = re.findall(r"^python training/(?:study|tune)\.py (.*)$", TEXT, flags=re.MULTILINE)
    assert len(lines) == 4
    assert {word for line in lines for word in line.split() if word.startswith("--")} <= known
