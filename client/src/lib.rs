//! A client of the streaming service.
