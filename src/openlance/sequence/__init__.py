"""Requests and records become token sequences: task table -> segments -> packed metadata. No pixels, no modules here."""
