"""Ready mappings, a TOML file each; :func:`stream_app.sources.mapping.load_mapping` knows them."""
