"""first tables"""

from alembic import op
import sqlalchemy as sa


revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('access_keys',
    sa.Column('access_key_id', sa.Text(), nullable=False),
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('sealed_secret', sa.Text(), nullable=False),
    sa.Column('regions', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('access_key_id')
    )
    op.create_table('client_tokens',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('operation', sa.Text(), nullable=False),
    sa.Column('token', sa.Text(), nullable=False),
    sa.Column('request_digest', sa.Text(), nullable=False),
    sa.Column('answer', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'operation', 'token')
    )
    op.create_table('compilation_jobs',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('target', sa.Text(), nullable=False),
    sa.Column('output_uri', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.Column('started_at', sa.BigInteger(), nullable=True),
    sa.Column('ended_at', sa.BigInteger(), nullable=True),
    sa.Column('failure_reason', sa.Text(), nullable=False),
    sa.Column('artifact_digest', sa.Text(), nullable=True),
    sa.Column('manifest', sa.JSON(), nullable=True),
    sa.Column('log', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    with op.batch_alter_table('compilation_jobs', schema=None) as batch_op:
        batch_op.create_index('compilation_jobs_created', ['account', 'region', 'created_at', 'name'], unique=False)
        batch_op.create_index('compilation_jobs_modified', ['account', 'region', 'modified_at'], unique=False)

    op.create_table('component_versions',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('version', sa.Text(), nullable=False),
    sa.Column('recipe', sa.JSON(), nullable=False),
    sa.Column('artifact_uri', sa.Text(), nullable=False),
    sa.Column('artifact_digest', sa.Text(), nullable=False),
    sa.Column('artifact_size', sa.BigInteger(), nullable=False),
    sa.Column('artifact_etag', sa.Text(), nullable=False),
    sa.Column('tags', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name', 'version')
    )
    op.create_table('deployments',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('target_arn', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.Column('latest', sa.Boolean(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'id')
    )
    with op.batch_alter_table('deployments', schema=None) as batch_op:
        batch_op.create_index('deployments_created', ['account', 'region', 'created_at', 'id'], unique=False)
        batch_op.create_index('deployments_target', ['account', 'region', 'target_arn', 'revision'], unique=False)

    op.create_table('desired_states',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.Column('deployment_id', sa.Text(), nullable=False),
    sa.Column('components', sa.JSON(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'thing', 'generation')
    )
    op.create_table('device_artifacts',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('uri', sa.Text(), nullable=False),
    sa.Column('etag', sa.Text(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'thing', 'digest')
    )
    op.create_table('device_tokens',
    sa.Column('token_hash', sa.Text(), nullable=False),
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('expires_at', sa.BigInteger(), nullable=False),
    sa.Column('used_at', sa.BigInteger(), nullable=True),
    sa.PrimaryKeyConstraint('token_hash')
    )
    op.create_table('devices',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('thing', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.Column('key_hash', sa.Text(), nullable=True),
    sa.Column('registered_at', sa.BigInteger(), nullable=True),
    sa.Column('architecture', sa.Text(), nullable=True),
    sa.Column('platform', sa.Text(), nullable=True),
    sa.Column('agent_version', sa.Text(), nullable=True),
    sa.Column('endpoint', sa.Text(), nullable=True),
    sa.Column('reported_at', sa.BigInteger(), nullable=True),
    sa.Column('reported_generation', sa.BigInteger(), nullable=False),
    sa.Column('reported_status', sa.Text(), nullable=True),
    sa.Column('reported_error', sa.Text(), nullable=True),
    sa.Column('running', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'thing')
    )
    with op.batch_alter_table('devices', schema=None) as batch_op:
        batch_op.create_index('devices_key_hash', ['key_hash'], unique=True)

    op.create_table('jobs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('attempts', sa.BigInteger(), nullable=False),
    sa.Column('fence', sa.BigInteger(), nullable=False),
    sa.Column('worker', sa.Text(), nullable=True),
    sa.Column('lease_until', sa.BigInteger(), nullable=True),
    sa.Column('stop_requested', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.create_index('jobs_state_created', ['state', 'created_at'], unique=False)

    op.create_table('sign_in_failures',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('sign_in_failures', schema=None) as batch_op:
        batch_op.create_index('sign_in_failures_name_at', ['name', 'at'], unique=False)

    op.create_table('users',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('password_hash', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('name')
    )


def downgrade() -> None:
    op.drop_table('users')
    with op.batch_alter_table('sign_in_failures', schema=None) as batch_op:
        batch_op.drop_index('sign_in_failures_name_at')

    op.drop_table('sign_in_failures')
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index('jobs_state_created')

    op.drop_table('jobs')
    with op.batch_alter_table('devices', schema=None) as batch_op:
        batch_op.drop_index('devices_key_hash')

    op.drop_table('devices')
    op.drop_table('device_tokens')
    op.drop_table('device_artifacts')
    op.drop_table('desired_states')
    with op.batch_alter_table('deployments', schema=None) as batch_op:
        batch_op.drop_index('deployments_target')
        batch_op.drop_index('deployments_created')

    op.drop_table('deployments')
    op.drop_table('component_versions')
    with op.batch_alter_table('compilation_jobs', schema=None) as batch_op:
        batch_op.drop_index('compilation_jobs_modified')
        batch_op.drop_index('compilation_jobs_created')

    op.drop_table('compilation_jobs')
    op.drop_table('client_tokens')
    op.drop_table('access_keys')
