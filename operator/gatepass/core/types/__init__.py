"""The custom resources: one frozen pydantic model per kind, from which the CRDs are made."""
