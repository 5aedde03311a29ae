"""People who sign in to the portal, with a limit on wrong passwords."""

import uuid
from functools import cache

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store.passwords import hash_password, verify_password
from model_delivery_localcloud.store.tables import SignInFailure, User

MOST_FAILURES = 5
WINDOW_MS = 5 * 60 * 1000


def add_user(session: Session, name: str, password: str) -> None:
    """Store a user, replacing the password of one of the same name."""
    session.merge(User(name=name, password_hash=hash_password(password), created_at=now_ms()))


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


def forget_attempt(session: Session, attempt: str) -> None:
    """Uncount an attempt: its password was right."""
    session.execute(delete(SignInFailure).where(SignInFailure.id == attempt))


def user_exists(session: Session, name: str) -> bool:
    """Tell whether the user is still there."""
    return session.get(User, name) is not None


@cache
def _nobodys_hash() -> str:
    return hash_password(uuid.uuid4().hex)
