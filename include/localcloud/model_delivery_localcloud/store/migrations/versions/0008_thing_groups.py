"""thing groups, attributes of things, and what deployments came to on each device"""

import uuid

from alembic import op
import sqlalchemy as sa


revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('thing_groups',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('parent', sa.Text(), nullable=True),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('attributes', sa.JSON(), nullable=False),
    sa.Column('tags', sa.JSON(), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    op.create_index('thing_groups_parent', 'thing_groups', ['account', 'region', 'parent'])
    op.create_table('thing_group_members',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('group_name', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'group_name', 'thing')
    )
    op.create_index('thing_group_members_thing', 'thing_group_members', ['account', 'region', 'thing'])
    op.create_table('deployment_executions',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.Column('deployment_id', sa.Text(), nullable=False),
    sa.Column('slot', sa.Text(), nullable=False),
    sa.Column('deployed_at', sa.BigInteger(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('applied', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.Column('deadline', sa.BigInteger(), nullable=True),
    sa.PrimaryKeyConstraint('account', 'region', 'thing', 'deployment_id')
    )
    op.create_index('deployment_executions_deployment', 'deployment_executions',
                    ['account', 'region', 'deployment_id', 'status', 'created_at'])
    op.create_index('deployment_executions_slot', 'deployment_executions', ['account', 'region', 'slot'])
    op.create_index('deployment_executions_deadline', 'deployment_executions', ['deadline'])
    with op.batch_alter_table('deployments') as batch_op:
        batch_op.add_column(sa.Column('slot', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('rollout', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('reason', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('due_at', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('fence', sa.BigInteger(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('paced_at', sa.BigInteger(), nullable=True))
        batch_op.create_index('deployments_rollout', ['account', 'region', 'rollout'])
        batch_op.create_index('deployments_due', ['due_at'])
    op.execute('UPDATE deployments SET slot = target_arn')
    with op.batch_alter_table('devices') as batch_op:
        batch_op.add_column(sa.Column('thing_id', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('attributes', sa.JSON(), server_default='{}', nullable=False))
        batch_op.add_column(sa.Column('version', sa.BigInteger(), server_default='1', nullable=False))
        batch_op.add_column(sa.Column('tags', sa.JSON(), server_default='{}', nullable=False))
    _name_things()
    _carry_over()


def _name_things() -> None:
    devices = sa.table('devices', *(sa.column(name) for name in ('account', 'region', 'thing', 'thing_id')))
    connection = op.get_bind()
    for account, region, thing, _ in connection.execute(sa.select(devices)).all():
        row = (devices.c.account == account) & (devices.c.region == region) & (devices.c.thing == thing)
        connection.execute(sa.update(devices).where(row).values(thing_id=str(uuid.uuid4())))


def _carry_over() -> None:
    # What became of a deployment on its one device: the newest of its desired states said so. The
    # device has the components of what it reached last.
    same = ('d.account = s.account AND d.region = s.region AND d.thing = s.thing ')
    op.execute(
        'INSERT INTO deployment_executions (account, region, thing, deployment_id, slot, deployed_at, '
        'generation, status, reason, error_code, applied, created_at, modified_at, deadline) '
        'SELECT s.account, s.region, s.thing, s.deployment_id, p.slot, p.created_at, s.generation, '
        's.status, s.reason, NULL, coalesce('
        "s.generation = (SELECT max(d.generation) FROM desired_states d WHERE " + same +
        "AND d.status = 'SUCCEEDED' AND d.deployment_id <> ''), (1 = 0)), s.created_at, s.modified_at, NULL "
        'FROM desired_states s JOIN deployments p '
        'ON p.account = s.account AND p.region = s.region AND p.id = s.deployment_id '
        'WHERE s.generation = (SELECT max(d.generation) FROM desired_states d WHERE ' + same +
        'AND d.deployment_id = s.deployment_id)'
    )


def downgrade() -> None:
    with op.batch_alter_table('devices') as batch_op:
        for name in ('thing_id', 'attributes', 'version', 'tags'):
            batch_op.drop_column(name)
    with op.batch_alter_table('deployments') as batch_op:
        batch_op.drop_index('deployments_rollout')
        batch_op.drop_index('deployments_due')
        for name in ('slot', 'rollout', 'reason', 'due_at', 'fence', 'paced_at'):
            batch_op.drop_column(name)
    for name in ('deployment_executions', 'thing_group_members', 'thing_groups'):
        op.drop_table(name)
