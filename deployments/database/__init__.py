"""What must outlive a router replica, in a database: SQLite on one machine, PostgreSQL for a cluster."""
