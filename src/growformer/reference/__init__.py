"""The transformer of the paper (arXiv:2308.06103, section 2), every size per layer and per head.

Here the theorems are stated and tested in full: stock models have one value for all layers and heads, this one has
its own for each. It is small and readable, works in every floating-point dtype, and is a complete example of an own
architecture: ``architecture.py`` declares it in arrows. No growth mathematics lives here.
"""

from growformer.reference.architecture import REFERENCE, reference_architecture
from growformer.reference.config import ReferenceConfig
from growformer.reference.model import ReferenceTransformer

__all__ = ["REFERENCE", "ReferenceConfig", "ReferenceTransformer", "reference_architecture"]
