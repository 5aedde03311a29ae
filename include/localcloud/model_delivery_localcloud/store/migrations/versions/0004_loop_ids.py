"""ids of human loops are not used again"""

from alembic import op


revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    _rebuild(autoincrement=True)


def downgrade() -> None:
    _rebuild(autoincrement=False)


def _rebuild(autoincrement: bool) -> None:
    # Postgres draws ids from a sequence. SQLite gives the id of a newest row that is deleted to the
    # next, unless the table is made so; that takes a new table.
    if op.get_bind().dialect.name == 'sqlite':
        with op.batch_alter_table(
            'human_loops', recreate='always', table_kwargs={'sqlite_autoincrement': autoincrement}
        ):
            pass
