"""EmoBench: five emotion-understanding tasks read from their sources' own files into one dataset of Parquet shards."""
