"""The wide study: tables, texts and images, with what a user would take instead."""
