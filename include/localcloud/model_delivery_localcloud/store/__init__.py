"""What localcloud remembers: SQLAlchemy tables, on SQLite by default and Postgres by URL."""
