"""human review"""

from alembic import op
import sqlalchemy as sa


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

_Serial = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def upgrade() -> None:
    with op.batch_alter_table('users', schema=None) as batch_op:
        # Who could sign in before saw everything: they stay administrators.
        batch_op.add_column(sa.Column('role', sa.Text(), server_default='admin', nullable=False))
        batch_op.add_column(sa.Column('worker_id', sa.Text(), server_default='', nullable=False))

    op.create_table('user_groups',
    sa.Column('user', sa.Text(), nullable=False),
    sa.Column('group_name', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('user', 'group_name')
    )
    op.create_table('workteams',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    op.create_table('workteam_groups',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('workteam', sa.Text(), nullable=False),
    sa.Column('group_name', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'workteam', 'group_name')
    )
    op.create_index('workteam_groups_group', 'workteam_groups', ['group_name'], unique=False)
    op.create_table('human_task_uis',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    op.create_table('flow_definitions',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('workteam', sa.Text(), nullable=False),
    sa.Column('human_task_ui', sa.Text(), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('failure_reason', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    op.create_index('flow_definitions_id', 'flow_definitions', ['id'], unique=True)
    op.create_index('flow_definitions_status', 'flow_definitions', ['status'], unique=False)
    op.create_table('human_loops',
    sa.Column('id', _Serial, nullable=False),
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('flow_id', sa.Text(), nullable=False),
    sa.Column('flow_name', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('phase', sa.Text(), nullable=False),
    sa.Column('queue', sa.Text(), nullable=True),
    sa.Column('priority', sa.Float(53), nullable=False),
    sa.Column('task_count', sa.BigInteger(), nullable=False),
    sa.Column('free_slots', sa.BigInteger(), nullable=False),
    sa.Column('answers', sa.BigInteger(), nullable=False),
    sa.Column('input_digest', sa.Text(), nullable=False),
    sa.Column('model_label', sa.Text(), nullable=True),
    sa.Column('confidence', sa.Float(53), nullable=True),
    sa.Column('known_answer', sa.Text(), nullable=True),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.Column('expires_at', sa.BigInteger(), nullable=False),
    sa.Column('due_at', sa.BigInteger(), nullable=True),
    sa.Column('attempts', sa.BigInteger(), nullable=False),
    sa.Column('answered_at', sa.BigInteger(), nullable=True),
    sa.Column('output_uri', sa.Text(), nullable=False),
    sa.Column('failure_code', sa.Text(), nullable=False),
    sa.Column('failure_reason', sa.Text(), nullable=False),
    sa.CheckConstraint('free_slots >= 0', name='human_loops_free_slots'),
    sa.CheckConstraint('answers <= task_count', name='human_loops_answers'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('human_loops_name', 'human_loops', ['account', 'region', 'name'], unique=True)
    op.create_index('human_loops_created', 'human_loops', ['flow_id', 'created_at', 'id'], unique=False)
    op.create_index('human_loops_queue', 'human_loops', ['queue', 'priority', 'id'], unique=False)
    op.create_index('human_loops_due', 'human_loops', ['due_at'], unique=False)
    op.create_table('human_loop_inputs',
    sa.Column('loop_id', _Serial, nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('attributes', sa.JSON(), nullable=False),
    sa.ForeignKeyConstraint(['loop_id'], ['human_loops.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('loop_id')
    )
    op.create_table('review_assignments',
    sa.Column('loop_id', _Serial, nullable=False),
    sa.Column('worker', sa.Text(), nullable=False),
    sa.Column('flow_id', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('accepted_at', sa.BigInteger(), nullable=False),
    sa.Column('lease_until', sa.BigInteger(), nullable=True),
    sa.Column('submitted_at', sa.BigInteger(), nullable=True),
    sa.Column('spent_ms', sa.BigInteger(), nullable=False),
    sa.Column('draft', sa.JSON(), nullable=True),
    sa.Column('answer', sa.JSON(), nullable=True),
    sa.Column('label', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['loop_id'], ['human_loops.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('loop_id', 'worker')
    )
    op.create_index('review_assignments_lease', 'review_assignments', ['lease_until'], unique=False)
    op.create_index('review_assignments_worker', 'review_assignments', ['worker', 'flow_id', 'state', 'submitted_at'], unique=False)
    op.create_index('review_assignments_flow', 'review_assignments', ['flow_id', 'submitted_at'], unique=False)
    op.create_table('webhook_events',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('body', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('due_at', sa.BigInteger(), nullable=False),
    sa.Column('attempts', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('webhook_events_due', 'webhook_events', ['due_at'], unique=False)


def downgrade() -> None:
    for table in ('webhook_events', 'review_assignments', 'human_loop_inputs', 'human_loops', 'flow_definitions', 'human_task_uis', 'workteam_groups', 'workteams', 'user_groups'):
        op.drop_table(table)
    with op.batch_alter_table('users', schema=None) as batch_op:
        batch_op.drop_column('worker_id')
        batch_op.drop_column('role')
