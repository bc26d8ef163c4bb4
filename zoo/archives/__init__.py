"""Scores archives of pictures: folders, tar files, Parquet files and object stores become tables of answers in Parquet.

`scoring` turns pictures into rows and knows no engine: Ray, Spark and a plain loop call it. `sources` finds the
pictures and divides them into shards, `contents` reads the pictures of a shard, `parts` writes their rows, and `ledger`
keeps what is done. `in_process` and `on_ray` are the engines. `zoo.workflow.score_archive` has the order of steps.

Workers import these modules, so they need zoo_runtime, pyarrow and the standard library alone.
"""
