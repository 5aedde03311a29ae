"""People who sign in to the portal, their sessions, and a limit on wrong passwords."""

import hashlib
import secrets
import uuid
from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import cache

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import NameTaken
from model_delivery_localcloud.store.passwords import hash_password, is_outdated, verify_password
from model_delivery_localcloud.store.review_tables import Assignment, UserGroup
from model_delivery_localcloud.store.tables import PortalSession, SignInFailure, User

# Wrong passwords within the window: of a name from one address, of a name from anywhere, of one
# address for any names. Who guesses from elsewhere does not lock the person out by five guesses;
# many people may share an address.
MOST_FAILURES = 5
MOST_OF_NAME = 50
MOST_OF_ADDRESS = 100
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
    """Store a user; of one that is there, replace the password, the role and the groups.

    Whoever is signed in by that name is signed out.

    :raises NameTaken: somebody who was removed answered, holds or was kept from items by that name
    """
    user = session.get(User, name)
    if user is None and session.scalar(select(exists().where(Assignment.worker == name))):
        # Answers, drafts and leases are kept by name: they would be a new person's, to undo.
        raise NameTaken(
            f"{name!r} was somebody who is removed and whose part in reviews is kept under that "
            "name: choose another name"
        )
    if user is None:
        user = User(name=name, created_at=now_ms(), worker_id=secrets.token_hex(8))
        session.add(user)
    user.password_hash = hash_password(password)
    user.role = role.value
    # Who was added before there were reviews has none yet.
    user.worker_id = user.worker_id or secrets.token_hex(8)
    session.execute(delete(PortalSession).where(PortalSession.user == name))
    session.execute(delete(UserGroup).where(UserGroup.user == name))
    session.add_all(UserGroup(user=name, group_name=group) for group in dict.fromkeys(groups))


def remove_user(session: Session, name: str) -> bool:
    """Delete a user and sign them out; False where there is none. What they answered stays."""
    user = session.get(User, name)
    if user is None:
        return False
    session.execute(delete(PortalSession).where(PortalSession.user == name))
    session.execute(delete(UserGroup).where(UserGroup.user == name))
    session.delete(user)
    return True


def users_of(session: Session, worker_ids: Collection[str]) -> list[User]:
    """Return the users whom outputs name by these ids."""
    return list(session.scalars(select(User).where(User.worker_id.in_(worker_ids))))


def begin_session(session: Session, name: str, seconds: int) -> str:
    """Sign a person in and return the secret that their cookie is to hold; drop what is over."""
    now, secret = now_ms(), secrets.token_urlsafe(32)
    session.execute(delete(PortalSession).where(PortalSession.expires_at <= now))
    session.add(PortalSession(id=_digest(secret), user=name, expires_at=now + seconds * 1000))
    return secret


def user_of_session(session: Session, secret: str) -> User | None:
    """Return who is signed in by a cookie's secret, None where that is over or never was."""
    signed_in = select(PortalSession.user).where(
        PortalSession.id == _digest(secret), PortalSession.expires_at > now_ms()
    )
    return session.scalars(select(User).where(User.name.in_(signed_in))).first()


def end_session(session: Session, secret: str) -> None:
    """Sign out: the cookie opens nothing any more, whoever kept a copy of it."""
    session.execute(delete(PortalSession).where(PortalSession.id == _digest(secret)))


def is_throttled(session: Session, name: str, address: str, attempt: str) -> bool:
    """Tell whether there were too many wrong passwords in the last 5 minutes, but for an attempt.

    Five for this name from this address, 50 for the name, or 100 from the address.
    """
    of_name, of_address = SignInFailure.name == name, SignInFailure.address == address
    return any(
        _failures(session, SignInFailure.id != attempt, *which) >= most
        for which, most in (
            ((of_name, of_address), MOST_FAILURES),
            ((of_name,), MOST_OF_NAME),
            ((of_address,), MOST_OF_ADDRESS),
        )
    )


def check_password(session: Session, name: str, password: str) -> bool:
    """Tell whether name and password belong together; an unknown name takes as long."""
    user = session.get(User, name)
    right = verify_password(password, user.password_hash if user else _nobodys_hash())
    return right and user is not None


def record_attempt(session: Session, name: str, address: str) -> str:
    """Count an attempt as failed and return its id; forget those that no longer count."""
    now = now_ms()
    session.execute(delete(SignInFailure).where(SignInFailure.at <= now - WINDOW_MS))
    failure = SignInFailure(id=uuid.uuid4().hex, name=name, address=address, at=now)
    session.add(failure)
    return failure.id


def forget_attempt(session: Session, attempt: str, name: str, password: str) -> None:
    """Uncount an attempt: its password was right. A hash that has aged is made anew."""
    drop_attempt(session, attempt)
    user = session.get(User, name)
    if user is not None and is_outdated(user.password_hash):
        user.password_hash = hash_password(password)


def drop_attempt(session: Session, attempt: str) -> None:
    """Uncount an attempt whose password was not looked at."""
    session.execute(delete(SignInFailure).where(SignInFailure.id == attempt))


def _failures(session: Session, *which: ColumnElement[bool]) -> int:
    recent = SignInFailure.at > now_ms() - WINDOW_MS
    return session.scalar(select(func.count()).where(recent, *which)) or 0


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@cache
def _nobodys_hash() -> str:
    return hash_password(uuid.uuid4().hex)
