"""The audit trail: a chain of sealed entries in a database, that can be proven whole, or not."""
