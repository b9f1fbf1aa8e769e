"""Ways of finding where traffic leaves from: each answers addresses with evidence, behind `core.ports.SourceFinder`."""
