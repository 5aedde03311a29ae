"""The AWS services, one module each: operation name → handler."""
