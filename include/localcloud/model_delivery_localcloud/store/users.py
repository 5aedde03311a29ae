"""People who sign in to the portal, with a limit on wrong passwords."""

import secrets
import uuid
from collections.abc import Sequence
from enum import StrEnum
from functools import cache

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store.passwords import hash_password, is_outdated, verify_password
from model_delivery_localcloud.store.review_tables import UserGroup
from model_delivery_localcloud.store.tables import SignInFailure, User

MOST_FAILURES = 5
WINDOW_MS = 5 * 60 * 1000


class Role(StrEnum):
    """What a person may see: `reviewer` their teams' queues, `lead` also how the work goes.

    `admin` sees everything: each queue, compilation and batch jobs, devices.
    """

    REVIEWER = "reviewer"
    LEAD = "lead"
    ADMIN = "admin"


def add_user(
    session: Session,
    name: str,
    password: str,
    role: Role = Role.ADMIN,
    groups: Sequence[str] = (),
) -> None:
    """Store a user; of one that is there, replace the password, the role and the groups."""
    user = session.get(User, name)
    if user is None:
        user = User(name=name, created_at=now_ms(), worker_id=secrets.token_hex(8))
        session.add(user)
    user.password_hash = hash_password(password)
    user.role = role.value
    # Who was added before there were reviews has none yet.
    user.worker_id = user.worker_id or secrets.token_hex(8)
    session.execute(delete(UserGroup).where(UserGroup.user == name))
    session.add_all(UserGroup(user=name, group_name=group) for group in dict.fromkeys(groups))


def find_user(session: Session, name: str) -> User | None:
    """Return the user of that name, or None."""
    return session.get(User, name)


def is_throttled(session: Session, name: str) -> bool:
    """Tell whether this name had 5 wrong passwords in the last 5 minutes."""
    recent = select(func.count()).where(
        SignInFailure.name == name, SignInFailure.at > now_ms() - WINDOW_MS
    )
    return (session.scalar(recent) or 0) >= MOST_FAILURES


def check_password(session: Session, name: str, password: str) -> bool:
    """Tell whether name and password belong together; an unknown name takes as long."""
    user = session.get(User, name)
    right = verify_password(password, user.password_hash if user else _nobodys_hash())
    return right and user is not None


def record_attempt(session: Session, name: str) -> str:
    """Count an attempt as failed and return its id; forget those that no longer count."""
    now = now_ms()
    session.execute(delete(SignInFailure).where(SignInFailure.at <= now - WINDOW_MS))
    failure = SignInFailure(id=uuid.uuid4().hex, name=name, at=now)
    session.add(failure)
    return failure.id


def forget_attempt(session: Session, attempt: str, name: str, password: str) -> None:
    """Uncount an attempt: its password was right. A hash that has aged is made anew."""
    session.execute(delete(SignInFailure).where(SignInFailure.id == attempt))
    user = session.get(User, name)
    if user is not None and is_outdated(user.password_hash):
        user.password_hash = hash_password(password)


@cache
def _nobodys_hash() -> str:
    return hash_password(uuid.uuid4().hex)
