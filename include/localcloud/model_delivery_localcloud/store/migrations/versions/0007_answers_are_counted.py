"""a loop has no fewer answers than none"""

from alembic import op


revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None

NAME = 'human_loops_answers'
GIVEN = "(SELECT count(*) FROM review_assignments WHERE loop_id = human_loops.id AND state = 'answered')"


def upgrade() -> None:
    # Where an answer was taken back twice, a loop has fewer by its own count than were given: it
    # would hold one below nought, and one whose answers are all in was never closed.
    op.execute(f"UPDATE human_loops SET answers = {GIVEN} WHERE phase <> 'done' AND answers <> {GIVEN}")
    op.execute(
        "UPDATE human_loops SET phase = 'answered', due_at = modified_at, answered_at = modified_at "
        "WHERE phase = 'open' AND answers = task_count"
    )
    op.execute("UPDATE human_loops SET answers = 0 WHERE answers < 0")
    _hold('answers BETWEEN 0 AND task_count')


def downgrade() -> None:
    _hold('answers <= task_count')


def _hold(condition: str) -> None:
    # SQLite holds to a new rule in a new table, whose ids are not used again either.
    with op.batch_alter_table(
        'human_loops', table_kwargs={'sqlite_autoincrement': True}
    ) as batch_op:
        batch_op.drop_constraint(NAME, type_='check')
        batch_op.create_check_constraint(NAME, condition)
