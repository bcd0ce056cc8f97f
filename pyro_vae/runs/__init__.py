"""A run directory: descriptions of parts, what was learned, files, loading.

    config.yaml                        everything needed to repeat the run; `pyro-vae fit --config` takes it
    manifest.json                      which files are current, their sha256, and how far the run is
    weights-*.safetensors              the latest weights; optimizer-*, best-* likewise
    metrics.csv                        one row an epoch

Every file is written beside its place, synced and renamed, and the manifest last: whenever a process dies, the manifest
names complete files. There is no pickle, and a description is turned into a class only where its module is trusted.

    describing.py    a part as plain data (class path and keywords), and back
    old_paths.py     class paths of earlier versions
    state.py         what a training has learned, as tensors and numbers
    directory.py     a run that is being written or resumed
    loading.py       load: a saved run
    derived.py       a run made from another one
    files.py         files of a run, read and written whole
    formats.py       the form of every text file in it
    schema.py        plain data checked against a type
    restoring.py     which tensors fit which module
    safe_yaml.py     YAML from outside, bounded

Nothing is imported here: the command reads YAML before torch is imported.
"""
