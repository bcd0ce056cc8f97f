"""A run directory: descriptions of parts, what was learned, files, loading.

    config.yaml                        all settings of the run; `pyro-vae fit --config` repeats it
    manifest.json                      which files are current, their sha256, and how far the run is
    weights-*.safetensors              the latest weights; optimizer-*, best-* likewise
    metrics.csv                        one row an epoch
    tracked.json                       up to which step each tracker was told, where there are trackers

Every file is written under a temporary name, synced and renamed, and the manifest last: whenever a process dies, the
manifest names complete files. There is no pickle, and a description is turned into a class only if its module is
trusted.

    describing.py    a part as plain data (class path and keywords), and back
    old_paths.py     class paths of earlier versions
    state.py         what a training has learned, as tensors and numbers
    directory.py     a run that is being written or resumed
    loading.py       load: a saved run
    texts.py         its text files, without torch
    listing.py       the runs below a folder, a line each
    packing.py       pack, unpack: a run as one file
    archives.py      such a file, checked and read
    derived.py       a run made from another one
    told.py          what a tracker was told of a run
    arrays.py        numbers of each datum, checked when they are read
    saved_evidence.py
                     the files of an evaluation
    files.py         files of a run, read and written whole
    locking.py       its lock
    formats.py       the form of every text file in it
    schema.py        plain data checked against a type
    restoring.py    tensors of a file, checked and put into a module or an optimizer
    safe_yaml.py    YAML from other people, of bounded size

Nothing is imported here: the command reads YAML before torch is imported.
"""
