"""One short file per family; each binds one or more ``Architecture`` values, which the registry finds by itself."""
