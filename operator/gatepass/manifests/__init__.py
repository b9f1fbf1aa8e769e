"""What an installation applies: CustomResourceDefinitions, RBAC and admission policies, as package data."""

from gatepass.manifests.crd import crds

__all__ = ["crds"]
