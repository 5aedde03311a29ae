"""personalize"""

from alembic import op
import sqlalchemy as sa


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('batch_inference_jobs',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('solution_version_arn', sa.Text(), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('work', sa.JSON(), nullable=False),
    sa.Column('tags', sa.JSON(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('modified_at', sa.BigInteger(), nullable=False),
    sa.Column('started_at', sa.BigInteger(), nullable=True),
    sa.Column('ended_at', sa.BigInteger(), nullable=True),
    sa.Column('failure_reason', sa.Text(), nullable=False),
    sa.Column('counts', sa.JSON(), nullable=True),
    sa.Column('log', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    with op.batch_alter_table('batch_inference_jobs', schema=None) as batch_op:
        batch_op.create_index('batch_inference_jobs_created', ['account', 'region', 'created_at', 'name'], unique=False)
        batch_op.create_index('batch_inference_jobs_version', ['account', 'region', 'solution_version_arn'], unique=False)

    op.create_table('recommendation_filters',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('dataset_group', sa.Text(), nullable=False),
    sa.Column('expression', sa.Text(), nullable=False),
    sa.Column('tags', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'name')
    )
    with op.batch_alter_table('recommendation_filters', schema=None) as batch_op:
        batch_op.create_index('recommendation_filters_created', ['account', 'region', 'created_at'], unique=False)

    op.create_table('solution_versions',
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('solution', sa.Text(), nullable=False),
    sa.Column('version', sa.Text(), nullable=False),
    sa.Column('dataset_group', sa.Text(), nullable=False),
    sa.Column('recipe', sa.Text(), nullable=False),
    sa.Column('bundle_uri', sa.Text(), nullable=False),
    sa.Column('bundle_etag', sa.Text(), nullable=False),
    sa.Column('bundle_digest', sa.Text(), nullable=False),
    sa.Column('items_uri', sa.Text(), nullable=True),
    sa.Column('items_etag', sa.Text(), nullable=True),
    sa.Column('item_fields', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('account', 'region', 'solution', 'version')
    )
    with op.batch_alter_table('solution_versions', schema=None) as batch_op:
        batch_op.create_index('solution_versions_group', ['account', 'region', 'dataset_group'], unique=False)

    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('progress', sa.Text(), server_default='', nullable=False))



def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_column('progress')

    with op.batch_alter_table('solution_versions', schema=None) as batch_op:
        batch_op.drop_index('solution_versions_group')

    op.drop_table('solution_versions')
    with op.batch_alter_table('recommendation_filters', schema=None) as batch_op:
        batch_op.drop_index('recommendation_filters_created')

    op.drop_table('recommendation_filters')
    with op.batch_alter_table('batch_inference_jobs', schema=None) as batch_op:
        batch_op.drop_index('batch_inference_jobs_version')
        batch_op.drop_index('batch_inference_jobs_created')

    op.drop_table('batch_inference_jobs')
