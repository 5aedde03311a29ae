"""The name of a job: made once for a submission and kept, so that a retry finds its job."""

import hashlib
import re
from typing import Any

MAX_LENGTH = 63
HASH_LENGTH = 10


def job_name(ti: Any, number: int = 0, generation: int = 0, salt: str = "") -> str:
    """Return the name of the task instance's job.

    Letters, digits and single hyphens, at most 63 characters, a hash of the whole identity at the
    end: what SageMaker, Greengrass and human loops all accept.

    :param ti: the running task instance.
    :param number: how often the task instance was cleared, so that it is to make a new job.
    :param generation: how many of its jobs ended badly; each new try of the work has a new name.
    :param salt: tells this submission from one of a run with the same identity: another
        installation's in the same account, or that of a run that was deleted and made again.
    """
    identity = (
        ti.dag_id, ti.task_id, ti.run_id, str(ti.map_index), str(number),
        str(generation), salt,
    )  # fmt: skip
    digest = hashlib.sha256("\x1f".join(identity).encode()).hexdigest()[:HASH_LENGTH]
    readable = re.sub(r"[^a-z0-9]+", "-", f"{ti.dag_id}-{ti.task_id}".lower()).strip("-")
    readable = readable[: MAX_LENGTH - HASH_LENGTH - 1].rstrip("-")
    return f"{readable}-{digest}" if readable else f"job-{digest}"
