"""An evaluation as a page that needs nothing beside it: tables, pictures and sounds are inside."""
