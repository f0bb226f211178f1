"""Fuzz targets under atheris, each in a process of its own, and say what came of it.

    python -m faults.fuzz [TARGET ...] --minutes N --seed S

Ends with 1 where an input was found that makes a target raise, hang or take too much memory, and names its file.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from . import targets

HANG_SECONDS = 10
MEMORY_MIB_MAX = 2048
_CHILD = "--in-this-process"
_GRACE_SECONDS = 120
"""A fuzzer that does not end by itself so long after its time is killed."""

_STATUS = re.compile(r"^#(\d+)\s.* cov: (\d+) .*corp: (\d+)/", re.MULTILINE)
_RUNS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_FOUND = re.compile(r"Test unit written to (.+)$", re.MULTILINE)

MISSING = (
    "Fuzzing needs atheris, which is not installed here. It exists for CPython 3.11 to 3.13 on Linux:\n"
    "    pip install -e '.[fuzz]'\n"
    "The same targets without it, for a moment each: tools/test tests/faults/fuzz"
)


class Outcome(NamedTuple):
    """What fuzzing one target came to."""

    name: str
    runs: int
    seconds: float
    coverage: int
    """Edges of the code that were reached."""
    corpus: int
    """Inputs that were kept because each reached something new."""
    found: list[str]
    """Files with inputs that are faults."""
    exit_code: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was found, and the target ran at all."""
        return not self.found and self.exit_code == 0 and self.runs > 0

    def __str__(self) -> str:
        rate = self.runs / max(self.seconds, 0.001)
        crashes = [path for path in self.found if not Path(path).name.startswith(("timeout-", "slow-unit-"))]
        return (
            f"{self.name:<10} {self.runs:>10} runs {self.seconds:>7.0f} s {rate:>8.0f} runs/s "
            f"coverage {self.coverage:>6} corpus {self.corpus:>6} "
            f"crashes {len(crashes)} hangs {len(self.found) - len(crashes)}"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit code."""
    parser = argparse.ArgumentParser(prog="tools/faults fuzz", description="Fuzz what reads bytes that others wrote.")
    every = " ".join(targets.NAMES)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all of them by default: {every}")
    parser.add_argument("--minutes", type=float, default=10, help="for each target (default: 10)")
    parser.add_argument("--seed", type=int, help="of the mutations (default: a random one, which is printed)")
    parser.add_argument("--corpus", type=Path, help="a directory in which to keep what was found worth keeping")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where inputs that are faults go")
    parser.add_argument(_CHILD, nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.in_this_process is not None:
        _fuzz_here(*asked.in_this_process)
        return 0
    unknown = [name for name in asked.targets if name not in targets.NAMES]
    if unknown:
        parser.error(f"there is no target {unknown[0]}; there is: {every}")
    if importlib.util.find_spec("atheris") is None:
        print(MISSING, file=sys.stderr)
        return 2
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1, 1 << 31)
    print(f"seed {seed}, {asked.minutes:g} minutes for each target", flush=True)
    seconds = max(1, round(asked.minutes * 60))
    outcomes = []
    for name in asked.targets or targets.NAMES:
        corpus = asked.corpus / name if asked.corpus is not None else None
        outcome = fuzz(name, seconds=seconds, seed=seed, corpus=corpus, findings=asked.findings)
        print(outcome, flush=True)
        for path in outcome.found:
            print(f"    {path}", flush=True)
        outcomes.append(outcome)
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def fuzz(name: str, *, seconds: int, seed: int, corpus: Path | None, findings: Path) -> Outcome:
    """Fuzz one target for some seconds, in a process of its own."""
    scratch = Path(targets.scratch_directory())
    corpus = corpus or scratch / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    findings = (findings / name).resolve()
    findings.mkdir(parents=True, exist_ok=True)
    log = findings / "log.txt"
    package = __package__ or "faults.fuzz"
    root = Path(__file__).parents[len(package.split("."))]
    environment = os.environ | {
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join((str(root.parent), str(root), os.environ.get("PYTHONPATH", ""))),
    }
    options = (
        f"-max_total_time={seconds}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}",
        f"-max_len={targets.INPUT_BYTES_MAX}",
        f"-seed={seed}",
        f"-dict={scratch / 'tokens'}",
        f"-artifact_prefix={findings}{os.sep}",
        "-print_final_stats=1",
        str(corpus),
    )
    begun = time.monotonic()
    try:
        with log.open("w", encoding="utf-8") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", package, _CHILD, name, str(scratch), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            try:
                code = child.wait(seconds + _GRACE_SECONDS)
            finally:
                child.kill()
                child.wait()
    except subprocess.TimeoutExpired:
        code = -1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _outcome(name, log, time.monotonic() - begun, code)


def _outcome(name: str, log: Path, seconds: float, code: int) -> Outcome:
    told = log.read_text(encoding="utf-8", errors="replace")
    runs, coverage, corpus = 0, 0, 0
    for status in _STATUS.finditer(told):
        runs, coverage, corpus = map(int, status.groups())
    final = _RUNS.search(told)
    found = [path.strip() for path in _FOUND.findall(told)]
    if code and not found:
        found = [str(log)]  # which says why it ended
    return Outcome(name, int(final[1]) if final else runs, seconds, coverage, corpus, found, code)


def _fuzz_here(name: str, scratch: str, *options: str) -> None:
    """Fuzz a target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=_readers(name), enable_loader_override=False):
        target = targets.load(name)
    corpus = Path(options[-1])
    for number, data in enumerate(targets.inputs(name)):
        (corpus / f"seed-{number:03d}").write_bytes(data)
    words = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.TOKENS)
    Path(scratch, "tokens").write_text("".join(f'"{word}"\n' for word in words if word), encoding="ascii")
    atheris.Setup([name, *options], target.one)
    atheris.Fuzz()


def _readers(name: str) -> list[str]:
    """Give the packages to be instrumented, which has to be known before the target is imported."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "READERS":
            return list(ast.literal_eval(node.value))
    raise LookupError(f"{name}.py has no READERS")


if __name__ == "__main__":
    sys.exit(main())
