"""The coverage study: what models catch at a low budget, loss by loss. See README.md here."""
