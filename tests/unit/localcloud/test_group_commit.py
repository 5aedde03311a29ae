"""Work that shares a commit: each its own success or failure, nothing told before the commit."""

from concurrent.futures import ThreadPoolExecutor

from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.group_commit import GroupCommit
from model_delivery_localcloud.store.review_tables import UserGroup
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

THREADS = 24
WORKS = 300


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(UserGroup)) or 0


def test_what_fails_undoes_itself_and_nothing_else(database: Database) -> None:
    commits = GroupCommit(database)

    def attempt(number: int) -> str:
        def work(session: Session) -> str:
            session.add(UserGroup(user=f"user-{number}", group_name="g"))
            session.flush()
            if number % 3 == 1:
                raise KeyError(number)
            if number % 3 == 2:  # taken already
                session.add(UserGroup(user="user-0", group_name="g"))
                session.flush()
            return f"done {number}"

        try:
            return commits.run(work)
        except KeyError as error:
            return f"refused {error.args[0]}"
        except IntegrityError:
            return f"taken {number}"

    assert attempt(0) == "done 0"
    with ThreadPoolExecutor(THREADS) as together:
        said = list(together.map(attempt, range(1, WORKS)))
    words = ("done", "refused", "taken")
    assert said == [f"{words[number % 3]} {number}" for number in range(1, WORKS)]
    assert count(database) == WORKS / 3
