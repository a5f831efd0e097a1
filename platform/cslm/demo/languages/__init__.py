"""One module a language, named by its code, each with a `LANGUAGE`."""
