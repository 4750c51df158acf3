//! Policies, decisions and sessions in tables.
