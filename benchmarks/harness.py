"""Time two sides of a comparison in turn and report the ratios of the pairs; or the stages of one chain of work."""

import gc
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import machine

TIE = 1.2  # a median ratio between 1 / TIE and TIE is not a difference
PARITY = 0.95  # a bar of 1.0 is met from here on


@dataclass(frozen=True)
class Options:
    """What the command line sets for every task."""

    pairs: int = 10
    threads: int = 1
    quick: bool = False  # tiny sizes, to see that everything runs; the figures mean nothing


@dataclass(frozen=True)
class Side:
    """One of the two candidates: what it is in full, and the call that is timed."""

    name: str
    config: dict[str, Any]
    run: Callable[..., Any]  # of a stage: with what the stage before returned


@dataclass(frozen=True)
class Comparison:
    """Ours against a peer at the same work.

    ``check(ours, peer)`` gets the outputs of the warm-up, raises AssertionError if they differ by more than
    ``tolerance`` says, and returns the differences found. ``target`` is the ratio peer / ours asked for;
    ``most_pairs`` bounds the number of pairs of this comparison.

    Where a ratio is not what counts: a run of ``steps`` may take ``most_extra_ms`` more for each step than the peer's,
    or a run of ours ``most_ms`` in all.
    """

    variant: str
    ours: Side
    peer: Side
    check: Callable[[Any, Any], dict[str, float]]
    tolerance: str
    target: float | None = None
    most_pairs: int | None = None  # where a pair takes minutes and the ratio leaves no doubt
    work: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    most_extra_ms: float | None = None
    most_ms: float | None = None


@dataclass(frozen=True)
class Chain:
    """Work in stages, each of which takes what the one before returned; the first takes nothing.

    ``check(output)`` gets the last output of the warm-up, raises AssertionError if it is wrong, and returns what it
    found.
    """

    variant: str
    stages: Sequence[Side]
    check: Callable[[Any], dict[str, Any]]
    work: dict[str, Any] = field(default_factory=dict)


def measure_chain(chain: Chain, repeats: int) -> dict[str, Any]:
    """Warm up, check the result, then time each stage ``repeats`` times, always in their order.

    Raises:
        AssertionError: the result is wrong; nothing is timed then.
    """

    def once() -> tuple[Any, list[float]]:
        output: Any = None
        taken = []
        for number, stage in enumerate(chain.stages):
            gc.collect()
            start = time.perf_counter()
            output = stage.run(output) if number else stage.run()
            taken.append(time.perf_counter() - start)
        return output, taken

    found = chain.check(once()[0])
    runs = [once()[1] for _ in range(repeats)]
    medians = [float(np.median(times)) for times in zip(*runs, strict=True)]
    return {
        "variant": chain.variant,
        "work": chain.work,
        "found": found,
        "total_s": quartiles(sum(times) for times in runs),
        "stages": [
            {
                "name": stage.name,
                "config": stage.config,
                "wall_s": quartiles(times),
                "share": round(median / sum(medians), 4),
            }
            for stage, times, median in zip(chain.stages, zip(*runs, strict=True), medians, strict=True)
        ],
        "runs": runs,
    }


def report_chain(result: dict[str, Any]) -> str:
    """One chain as text: seconds and share of each stage."""
    lines = [f"  {result['variant']}: {_words(result['work'])}; found {_words(result['found'])}"]
    for stage in result["stages"]:
        seconds = _spread(stage["wall_s"])
        lines.append(f"    {stage['name']}: {seconds} s, {stage['share']:.1%} ({_words(stage['config'])})")
    return "\n".join([*lines, f"    in all: {_spread(result['total_s'])} s over {len(result['runs'])} runs"])


def measure(comparison: Comparison, pairs: int) -> dict[str, Any]:
    """Warm both sides up, assert equal output, then time ``pairs`` interleaved pairs.

    Raises:
        AssertionError: the outputs differ by more than the tolerance; nothing is timed then.
    """
    differences = comparison.check(comparison.ours.run(), comparison.peer.run())
    times = []
    for index in range(min(pairs, comparison.most_pairs or pairs)):
        sides = {"ours": comparison.ours, "peer": comparison.peer}
        # Who goes first alternates, so that a drift of the clock rate favours neither.
        order = list(sides) if index % 2 == 0 else list(sides)[::-1]
        taken = {name: _time(sides[name].run) for name in order}
        times.append({f"{name}_{kind}_s": taken[name][kind] for name in sides for kind in ("wall", "cpu")})
    columns = {key: [pair[key] for pair in times] for key in times[0]}
    ratio = _ratios(columns, "wall")
    bars = _bars(comparison, columns)
    return {
        "variant": comparison.variant,
        "work": comparison.work,
        "ours": _side(comparison.ours, columns, "ours"),
        "peer": _side(comparison.peer, columns, "peer"),
        "tolerance": comparison.tolerance,
        "differences": differences,
        "wall_ratio": quartiles(ratio),
        "cpu_ratio": quartiles(_ratios(columns, "cpu")),
        "target": comparison.target,
        **bars,
        "verdict": bars.pop("verdict", None) or verdict(float(np.median(ratio)), comparison.target),
        "pairs": times,
    }


def _bars(comparison: Comparison, columns: dict[str, list[float]]) -> dict[str, Any]:
    """The bars in milliseconds, what was found, and whether it is within them."""
    found: dict[str, Any] = {}
    if comparison.steps is not None:
        pairs = zip(columns["ours_wall_s"], columns["peer_wall_s"], strict=True)
        found["extra_ms_a_step"] = quartiles(1e3 * (ours - peer) / comparison.steps for ours, peer in pairs)
        found |= {"steps": comparison.steps, "most_extra_ms": comparison.most_extra_ms}
    if comparison.most_ms is not None:
        found["most_ms"] = comparison.most_ms
    kept = [
        value <= bar
        for bar, value in (
            (comparison.most_extra_ms, found.get("extra_ms_a_step", {}).get("median")),
            (comparison.most_ms, 1e3 * float(np.median(columns["ours_wall_s"]))),
        )
        if bar is not None and value is not None
    ]
    return found | ({"verdict": "met" if all(kept) else "missed"} if kept else {})


def quartiles(values: Iterable[float]) -> dict[str, float]:
    """Quartiles with the extremes, rounded to four digits."""
    cuts = np.quantile(list(values), [0, 0.25, 0.5, 0.75, 1])
    names = ("min", "q1", "median", "q3", "max")
    return {name: float(f"{cut:.4g}") for name, cut in zip(names, cuts, strict=True)}


def verdict(median: float, target: float | None) -> str:
    """Words for a median ratio: below 1.2 either way is a tie, and parity is asked for with a little room."""
    if target is None:
        return "tie" if 1 / TIE < median < TIE else "faster" if median > 1 else "slower"
    if target == 1.0:
        return "missed" if median < PARITY else "met (tie)" if median < TIE else "met"
    return "met" if median >= target else "missed"


def report(result: dict[str, Any]) -> str:
    """One comparison as text, with both configurations in full."""
    lines = [f"  {result['variant']}: {_words(result['work'])}"]
    for role in ("ours", "peer"):
        side = result[role]
        lines.append(f"    {role} {side['name']}: {_words(side['config'])}")
        lines.append(f"      ms: wall {_spread(side['wall_ms'])}, cpu {_spread(side['cpu_ms'])}")
    target = "" if result["target"] is None else f", asked {result['target']}"
    if "extra_ms_a_step" in result:
        allowed = "" if result["most_extra_ms"] is None else f", allowed {result['most_extra_ms']:g}"
        lines.append(f"    more a step: {_spread(result['extra_ms_a_step'])} ms{allowed}")
    if "most_ms" in result:
        lines.append(f"    allowed: {result['most_ms']:g} ms")
    lines.append(f"    equal output: {result['tolerance']}; found {_words(result['differences'])}")
    lines.append(
        f"    peer / ours over {len(result['pairs'])} pairs: wall {_spread(result['wall_ratio'])}, "
        f"cpu {_spread(result['cpu_ratio'])}{target}: {result['verdict']}"
    )
    return "\n".join(lines)


def run_task(name: str, comparisons: Iterable[Comparison | Chain], options: Options) -> dict[str, Any]:
    """Measure the comparisons (or chains of stages) of a task one after the other and print each."""
    seconds = 0.1 if options.quick else 1.0
    before = machine.activity(seconds)
    print(f"{name}\n  machine: {_words(machine.facts())}")
    if not before["quiet"]:
        print(f"  NOT A QUIET MACHINE: {_words(before)}; trust the cpu ratio before the wall ratio")
    results = []
    for item in comparisons:
        if isinstance(item, Chain):
            results.append(measure_chain(item, options.pairs))
            print(report_chain(results[-1]), flush=True)
        else:
            results.append(measure(item, options.pairs))
            print(report(results[-1]), flush=True)
    return {
        "task": name,
        "quick": options.quick,
        "machine": machine.facts(),
        "activity_before": before,
        "activity_after": machine.activity(seconds),
        "comparisons": results,
    }


def _time(run: Callable[[], Any]) -> dict[str, float]:
    gc.collect()  # garbage of the side before is not ours to pay for
    wall, cpu = time.perf_counter(), _cpu_seconds()
    run()
    return {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _ratios(columns: dict[str, list[float]], kind: str) -> list[float]:
    return [p / o for p, o in zip(columns[f"peer_{kind}_s"], columns[f"ours_{kind}_s"], strict=True)]


def _side(side: Side, columns: dict[str, list[float]], role: str) -> dict[str, Any]:
    timed = {f"{kind}_ms": quartiles(1e3 * t for t in columns[f"{role}_{kind}_s"]) for kind in ("wall", "cpu")}
    return {"name": side.name, "config": side.config, **timed}


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:.4g} [{values['q1']:.4g}, {values['q3']:.4g}]"


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "nothing"
