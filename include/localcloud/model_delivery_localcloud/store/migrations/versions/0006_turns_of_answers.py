"""the turn of each answer, and the index by which the newest is found"""

from alembic import op
import sqlalchemy as sa


revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None

INDEX = 'review_assignments_worker'


def upgrade() -> None:
    with op.batch_alter_table('review_assignments', schema=None) as batch_op:
        batch_op.add_column(sa.Column('turn', sa.BigInteger(), nullable=True))
        batch_op.drop_index(INDEX)
        batch_op.create_index(INDEX, ['worker', 'flow_id', 'state', 'turn'], unique=False)
    # What is answered next counts on from there.
    op.execute("UPDATE review_assignments SET turn = submitted_at WHERE state = 'answered'")


def downgrade() -> None:
    with op.batch_alter_table('review_assignments', schema=None) as batch_op:
        batch_op.drop_index(INDEX)
        batch_op.create_index(INDEX, ['worker', 'flow_id', 'state', 'submitted_at'], unique=False)
        batch_op.drop_column('turn')
