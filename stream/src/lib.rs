//! Tenantry's streaming service.
