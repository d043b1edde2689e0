"""Refuses imports of ``plgolf.interop``, the old name of ``plgolf.reference``."""

raise ImportError("plgolf.interop is now plgolf.reference: change the import")
