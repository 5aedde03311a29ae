"""`python -m benchmarks [name]`: run one benchmark, or all."""

import importlib
import json
import sys
from pathlib import Path

NOT_BENCHMARKS = {
    "__init__", "__main__", "record",
    "batch_chaos_task", "batch_models", "batch_rates", "batch_shards", "ray_peer",
    "review_reviewers", "waiting_tasks",
}  # fmt: skip


def names() -> list[str]:
    """Return the benchmarks there are."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(path.stem for path in files if path.stem not in NOT_BENCHMARKS)


def main() -> int:
    """Run what the command line names; refuse an unknown name with the known ones.

    :returns: 0; 1 where a goal was missed, which the last lines name; 2 for an unknown name.
    """
    missed = []
    wanted = sys.argv[1:] or names()
    for name in wanted:
        if name not in names():
            print(f"no benchmark {name!r}; there are: {', '.join(names())}", file=sys.stderr)
            return 2
        path = importlib.import_module(f"benchmarks.{name}").main()
        print(path.read_text())
        missed += [
            f"{name}: {each['what']}: {each['ours']:.4g} {each['unit']}, goal {each['goal']}"
            for each in json.loads(path.read_text())["measures"]
            if each["passed"] is False
        ]
    for each in missed:
        print(f"missed: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
